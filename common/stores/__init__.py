"""Files in object stores: `location` turns what a user gave into a `Path` or a `RemotePath`, which reads and writes."""

from common.stores.errors import StoreError as StoreError
from common.stores.errors import StoreFileNotFound as StoreFileNotFound
from common.stores.paths import Location as Location
from common.stores.paths import RemotePath as RemotePath
from common.stores.paths import location as location
from common.stores.urls import is_url as is_url

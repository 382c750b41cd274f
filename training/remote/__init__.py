"""Runs whose run_dir is a URL: a local folder that is copied to the object store while the run goes on."""

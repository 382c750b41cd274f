# Two images of the same commands, for machines without and with a GPU:
#   docker build --target cpu --tag cm-acc:cpu .
#   docker build --target gpu --tag cm-acc:gpu .
# docs/running.md says how to use them.

FROM python:3.11.14-slim-bookworm AS base
# The caches are in /tmp, so that any user may run the image.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor
RUN useradd --uid 1000 --create-home cmacc \
    && mkdir -p /cm-acc/data /cm-acc/runs \
    && chown 1000:1000 /cm-acc/data /cm-acc/runs
WORKDIR /cm-acc
VOLUME ["/cm-acc/data", "/cm-acc/runs"]
# The commands act on SIGTERM and SIGINT themselves, also as process 1: train.py saves a checkpoint and ends.
STOPSIGNAL SIGTERM
ENTRYPOINT ["./cmacc"]
CMD ["help"]

# The packages are installed in stages of their own, so that nothing that only installs them enters an image. All of
# them are wheels: no stage needs a compiler.
FROM base AS packages
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt requirements.lock /tmp/lists/
WORKDIR /tmp/lists

# PyTorch's own index has builds without CUDA; the lock names those with it.
FROM packages AS packages-cpu
RUN grep -E '^torch' requirements.txt > torch.txt \
    && grep -vE '^(#|torch|faiss)' requirements.txt > others.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: \
       --index-url https://download.pytorch.org/whl/cpu -r torch.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: faiss-cpu==1.15.1 -r others.txt

FROM packages AS packages-gpu
RUN pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r requirements.lock

# The code belongs to root, and is compiled here because the images' user cannot write next to it.
FROM base AS code
COPY . /code
RUN python -m compileall -q --invalidation-mode unchecked-hash -s /code -p /cm-acc /code

FROM base AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code /code /cm-acc
USER 1000:1000

FROM base AS gpu
# Without `video` the GPU's video decoder is not available in the container.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=code /code /cm-acc
USER 1000:1000

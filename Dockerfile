# Thalweg in a container: one process, user 10001, a read-only root, one volume (/data).
#
#   docker build -t thalweg .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges --stop-timeout 25 \
#       -p 127.0.0.1:8000:8000 -v thalweg:/data thalweg
#
# A folder mounted on /data must belong to 10001:10001. `--tmpfs /tmp` is optional: with it compiled
# kernels and temporary files have a place of their own, without it nothing fails. A stop may take
# THALWEG_SHUTDOWN_SECONDS (20), which is more than engines grant by default. On Kubernetes set
# `enableServiceLinks: false`: a Service named thalweg would put THALWEG_ variables into the environment
# that are not settings, and the service refuses those.
#
# .ci/container builds this file and steps a session in the result, with no container engine.

# Any Debian image with Python >= 3.11 and its venv module will do. Not Alpine: numba has no musl wheels.
ARG BASE=python:3.13-slim


# What the other stages build with. pip lives in an environment of its own and installs into the
# service's: the image has no pip. The account has a name only for programs that ask for one.
FROM ${BASE} AS tools
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/thalweg \
 && useradd --uid 10001 --user-group --no-create-home --no-log-init --home-dir /tmp --shell /usr/sbin/nologin thalweg \
 && mkdir /data
WORKDIR /src
COPY pyproject.toml ./


# What the service needs. This stage sees pyproject.toml and not the source, so an edit of the source
# leaves the large layer made here as it is. Wheels only: a dependency that wants a compiler fails here
# and says so. Bytecode is written now, since a read-only root cannot write it later, and is not checked
# against the sources when loaded: they do not change.
FROM tools AS dependencies
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['fast'], sep='\n')" > requirements.txt \
 && /opt/pip/bin/pip --python /opt/thalweg/bin/python install --no-cache-dir --no-compile --only-binary=:all: --requirement requirements.txt \
 && /opt/thalweg/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/thalweg/lib


# The service itself, under /layer, to be laid over the environment above.
FROM tools AS package
COPY README.md LICENSE ./
COPY service ./service
RUN /opt/pip/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && /opt/pip/bin/pip --python /opt/thalweg/bin/python install --no-cache-dir --no-compile --no-deps --no-index --no-warn-script-location --root /layer /wheels/*.whl \
 && /opt/thalweg/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /layer /layer/opt/thalweg/lib


# The image. There is no RUN below, so nothing of how the build reached its packages can be left behind,
# and the large layers come last, so a change of a setting does not copy them again.
FROM ${BASE}
COPY --from=tools /etc/passwd /etc/group /etc/
COPY --from=tools --chown=10001:10001 /data /data

# Threads: a BLAS that starts a thread per host core is slow under a CPU quota, and the order of its sums,
# so the last bit of an answer, would depend on the machine.
#
# Caches: what only likes to write goes to /tmp, and does without where /tmp is read-only. Compiled kernels
# are among them and must stay there: numba's cache holds pickles, which a data volume should never carry.
# matplotlib does not start without a writable folder, so it has one on the volume (its cache is JSON).
ENV PATH=/opt/thalweg/bin:${PATH} \
    OPENBLAS_NUM_THREADS=1 \
    OMP_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/data/.matplotlib

# The working folder is the volume: where no other place is writable, SQLite and Python's tempfile use it.
WORKDIR /data
VOLUME ["/data"]
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# -I: nothing in the working folder can pose as a module. No proxy: the environment may name one.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/livez', timeout=2)"]

ENTRYPOINT ["thalweg"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--data", "/data"]

COPY --from=dependencies /opt/thalweg /opt/thalweg
COPY --from=package /layer/opt/thalweg /opt/thalweg

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Thalweg" \
      org.opencontainers.image.description="An optimizer behind a URL: durable sessions, exact dialects of torch, optax and Keras, and a sandbox." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

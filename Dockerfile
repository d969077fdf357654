# The service without demo and test servers. Nothing is downloaded at run time: DuckDB's extensions are wheels.
# `docker build -t lotus-lake .`; README.md, "In a container", says how to run it.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements/build.txt requirements/run.txt requirements/
# The environment that is shipped has no pip: this stage's own fills it. Hashes hold, and nothing is compiled.
RUN python -m venv --without-pip /opt/lotus-lake \
    && pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && pip --python /opt/lotus-lake/bin/python install --require-hashes --only-binary :all: -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY feeders feeders
COPY ddl ddl
COPY transforms transforms
# The spool's folder is copied with its owner below, so that a new volume is writable for the service.
RUN python -m hatchling build -t wheel -d dist \
    && pip --python /opt/lotus-lake/bin/python install --no-deps --no-index dist/*.whl \
    && mkdir -m 0700 spool

FROM python:3.11-slim
COPY --from=build /opt/lotus-lake /opt/lotus-lake
COPY --from=build --chown=10001:10001 /build/spool /var/spool/lotus-lake
# LOTUS_HTTP_HOST stays 127.0.0.1 here: the pages have no authentication, so opening them is the deployment's word.
ENV PATH=/opt/lotus-lake/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOTUS_SPOOL_DIR=/var/spool/lotus-lake
VOLUME /var/spool/lotus-lake
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('LOTUS_HTTP_PORT', '8080')}/livez\", timeout=3)"]
ENTRYPOINT ["lotus-lake"]
CMD ["run"]

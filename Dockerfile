# syntax=docker/dockerfile:1

# Python of one minor version in both stages, 3.13: byte code and compiled packages hang on it. A digest names the image
# for every architecture; the tag before it is for people and for what proposes updates.
FROM --platform=$BUILDPLATFORM python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285 AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.txt ./
COPY deploy/image deploy/image
COPY operator operator
ARG TARGETARCH
ARG SOURCE_DATE_EPOCH
RUN python deploy/image/install.py --arch "$TARGETARCH" /out

FROM gcr.io/distroless/python3-debian13:nonroot@sha256:83aa8d4f74a4d7f7cf2d472054139bef71a927b76c680c0f2e1021d6b1d6d732
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="Hoop operator" \
      org.opencontainers.image.description="PostgreSQL roles for hoop.dev, declared as Kubernetes objects." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.base.name="gcr.io/distroless/python3-debian13:nonroot"
COPY --from=build /out /
# A user without a name, which OpenShift gives, has no home either, and Python's Kubernetes client asks for one.
ENV HOME=/nonexistent \
    PATH=/opt/hoop-operator/bin:/usr/bin
USER 65532:65532
EXPOSE 8080
# For container engines; Kubernetes has the probes of the Deployment.
HEALTHCHECK --start-period=60s --interval=10s --timeout=6s \
  CMD ["/opt/hoop-operator/bin/python3", "-I", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('HOOP_HTTP_PORT', '8080') + '/livez', timeout=5)"]
ENTRYPOINT ["/opt/hoop-operator/bin/hoop-operator"]
CMD ["run"]

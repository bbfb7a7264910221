# torchgeo-mapsr in a container:
#   docker build -t torchgeo-mapsr .                                  # CPU and GPU
#   docker build -t torchgeo-mapsr --build-arg TORCH_INDEX=ADDRESS .  # CPU alone: a tenth of the size
#   docker run --rm -v "$PWD:/data" torchgeo-mapsr map imagery.tif --labels nlcd.tif --legend nlcd --output landcover.tif
FROM python:3.12-slim AS build
# Where torch comes from: by default the usual registry, whose builds for Linux run on CPU
# and GPU and are large; PyTorch's own page names indexes of builds for CPU or one CUDA.
ARG TORCH_INDEX=
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY torchgeo_mapsr torchgeo_mapsr
RUN python -m venv /venv \
    && if [ -n "$TORCH_INDEX" ]; then \
        /venv/bin/pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX"; \
    fi \
    && /venv/bin/pip install --no-cache-dir '.[dask,stac,zarr]'

FROM python:3.12-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
# Files that it writes belong to whom the volume belongs to: docker run --user "$(id -u):$(id -g)".
RUN useradd --create-home mapsr
USER mapsr
WORKDIR /data
ENTRYPOINT ["torchgeo-mapsr"]
CMD ["--help"]

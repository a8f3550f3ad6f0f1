"""What the fork server imports, so that no worker has to: timm and torchvision take seconds."""

# ruff: noqa: F401
import bench.execute.worker
import bench.model.timm_models
import results.migrate
import suites

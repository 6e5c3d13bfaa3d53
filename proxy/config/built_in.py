"""What is mirrored where no file says otherwise."""

from __future__ import annotations

from typing import Final

BUILT_IN: Final = """\
upstreams:
  docker.io: {default: true}
  quay.io: {}
  ghcr.io: {}
  registry.k8s.io: {}
  public.ecr.aws: {}
  mcr.microsoft.com: {}
"""
"""The configuration when there is no file. `upstreams.yaml`, the sample, means the same."""

"""TPU chips of this machine, found without waking them up. TensorFlow is not imported here."""

import glob
import os

# How Linux shows chips: the accel driver's devices, and VFIO's groups from v5e on.
DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


def attached_chips() -> list[str]:
    """Device files that may be TPU chips; none on a machine without a TPU."""
    return sorted(path for pattern in DEVICES for path in glob.glob(pattern))


def skip_metadata_without_tpu() -> None:
    """Keeps libtpu, where tensorflow-tpu is installed on a machine without a TPU, from asking Google's metadata server for minutes.

    To be called before TensorFlow is imported.
    """
    if not attached_chips():
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

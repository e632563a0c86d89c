# SPDX-License-Identifier: BSD-3-Clause
"""How a rank of PyTorch ends that has written all that it was asked for."""

import os
import sys


def leave():
    """Ends this process at once. Torch's destructors at exit sometimes abort it ("terminate called without an active
    exception", seen with 2.11), which says nothing of the numbers."""
    import torch.distributed

    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

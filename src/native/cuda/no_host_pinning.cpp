// SPDX-License-Identifier: BSD-3-Clause
#include "native/cuda/host_pinning.h"

namespace lockstep::native {

std::shared_ptr<HostPinning> make_host_pinning() {
  return nullptr;
}

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
// The fake GPU's pinning in place of the machine's, for loaders that tests build. The program is
// linked with `--wrap` for `make_host_pinning`: whoever calls that function calls the first one
// below, and the second one is the library's.
#include "native/cuda/host_pinning.h"
#include "support/fake_gpu.h"

namespace lockstep::native {

std::shared_ptr<HostPinning> chosen_host_pinning() __asm__(
    "__wrap__ZN8lockstep6native17make_host_pinningEv");
std::shared_ptr<HostPinning> real_host_pinning() __asm__(
    "__real__ZN8lockstep6native17make_host_pinningEv");

std::shared_ptr<HostPinning> chosen_host_pinning() {
  auto& gpu = testing::FakeGpu::get();
  return gpu.replaces_pinning ? gpu.pinning() : real_host_pinning();
}

}  // namespace lockstep::native

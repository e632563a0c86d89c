// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/host_name.h"

#include <unistd.h>

#include <array>
#include <fstream>
#include <functional>

namespace lockstep::native {

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::int64_t host_hash() {
  // Hosts made from one image may have one name.
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return static_cast<std::int64_t>(std::hash<std::string>()(host_name() + "/" + boot));
}

}  // namespace lockstep::native

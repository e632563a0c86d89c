// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// A TCP socket bound to `port` of the loop-back, for a server that takes it over and then cannot
/// be reached from other hosts. Not open where `host` is reached some other way, or the port is
/// taken.
///
/// Blocks: as long as the system's resolver does. Throws nothing.
[[nodiscard]] FileDescriptor bind_loopback(const std::string& host, std::uint16_t port);

}  // namespace lockstep::native

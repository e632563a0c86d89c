// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// A TCP socket bound to `port` of the loopback interface, for a server that takes it over and then
/// cannot be reached from other hosts. The result is not open where `host` has an address
/// elsewhere, or another process uses the port.
///
/// Blocks: as long as the system's resolver does. Throws nothing.
[[nodiscard]] FileDescriptor bind_loopback(const std::string& host, std::uint16_t port);

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/rendezvous.h"

#include <lockstep/core/error.h>

#include <charconv>
#include <string>

#include "native/posix/environment_variable.h"

namespace lockstep {
GlooRendezvous GlooRendezvous::detect() {
  GlooRendezvous result;
  result.host = native::environment_variable("MASTER_ADDR");
  if (result.host.empty()) {
    throw LaunchError(
        "backend Gloo needs MASTER_ADDR, a host of the job, as torchrun sets it; it is not set");
  }
  const std::string port = native::environment_variable("MASTER_PORT");
  const char* end = port.data() + port.size();
  const auto [last, error] = std::from_chars(port.data(), end, result.port);
  if (port.empty() || error != std::errc() || last != end || result.port == 0) {
    throw LaunchError("MASTER_PORT is '" + port + "'; backend Gloo needs a port from 1 to 65535");
  }
  const std::string served = native::environment_variable("TORCHELASTIC_USE_AGENT_STORE");
  result.has_server = served == "True" || served == "1";
  return result;
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/environment_variable.h"

#include <cstdlib>

namespace lockstep::native {

std::string environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace lockstep::native

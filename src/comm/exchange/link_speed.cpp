// SPDX-License-Identifier: BSD-3-Clause
#include "comm/exchange/link_speed.h"

#include <cstdio>

namespace lockstep {

std::string LinkSpeed::describe() const {
  char text[64];
  std::snprintf(text, sizeof(text), "%.0f us, %.2f GB/s", latency * 1e6, bytes_per_second / 1e9);
  return text;
}

}  // namespace lockstep

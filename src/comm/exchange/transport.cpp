// SPDX-License-Identifier: BSD-3-Clause
#include "comm/exchange/transport.h"

#include <algorithm>
#include <cstring>

namespace lockstep {

void Exchange::copy_own(int rank) const {
  const auto source = sends[static_cast<std::size_t>(rank)];
  const auto target = receives[static_cast<std::size_t>(rank)];
  const std::size_t bytes = std::min(source.size(), target.size());
  if (bytes != 0 && source.data() != target.data()) {
    std::memmove(target.data(), source.data(), bytes);
  }
}

}  // namespace lockstep

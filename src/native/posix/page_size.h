// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>

namespace lockstep::native {

/// Throws: `std::system_error` when the result does not fit.
[[nodiscard]] std::size_t round_up_to_page(std::size_t bytes);

}  // namespace lockstep::native

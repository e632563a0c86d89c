// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::data {

/// What happens when the samples cannot be shared out evenly.
///
/// Thread-safety: a value; copies are independent.
enum class Remainder {
  Pad,    ///< the first indices of the epoch are repeated, so that every rank has the same number
  Drop,   ///< the last indices of the epoch are left out, so that every rank has the same number
  Exact,  ///< every index goes to exactly one rank; numbers differ by at most one (for evaluation)
};

}  // namespace lockstep::data

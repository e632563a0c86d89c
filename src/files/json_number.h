// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace lockstep::files {

/// A number as JSON writes it, with as many digits as bring back each bit, and so that Python sees
/// a float. JSON has no infinity and no NaN: they are a text in quotes, as Python's `float()` takes
/// it.
[[nodiscard]] std::string json_number(double value);

}  // namespace lockstep::files

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

/// Python's operators on numbers, and its errors. `what` says in messages what is computed.
namespace lockstep::optim::lr_scheduler {

/// pi, as Python's `math.pi`.
inline constexpr double kPi = 3.141592653589793;

/// Whole numbers up to here are exact as `double`, in Python's divisions too.
inline constexpr std::int64_t kMaxWhole = std::int64_t{1} << 53;

/// `a / b`.
[[nodiscard]] double quotient(double a, double b, const char* what);
/// `a ** b`.
[[nodiscard]] double power(double a, double b, const char* what);
/// `a % b`, which has the sign of `b`.
[[nodiscard]] std::int64_t floor_modulo(std::int64_t a, std::int64_t b);
/// `a // b`.
[[nodiscard]] std::int64_t floor_quotient(std::int64_t a, std::int64_t b);
/// `double`, for a number that Python has as a whole one.
[[nodiscard]] inline double real(std::int64_t value) {
  return static_cast<double>(value);
}
/// Throws: `c10::Error` for a number that is not exact as `double`.
void check_size(const char* schedule, const char* name, std::int64_t value);

}  // namespace lockstep::optim::lr_scheduler

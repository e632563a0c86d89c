// SPDX-License-Identifier: BSD-3-Clause
#include "optim/lr_scheduler/python_arithmetic.h"

#include <c10/util/Exception.h>

#include <cmath>

namespace lockstep::optim::lr_scheduler {

double quotient(double a, double b, const char* what) {
  TORCH_CHECK(b != 0, what, " divides ", a, " by zero");
  return a / b;
}

double power(double a, double b, const char* what) {
  TORCH_CHECK(a != 0 || b >= 0, what, " raises 0 to the power ", b);
  const double result = std::pow(a, b);
  TORCH_CHECK(!std::isfinite(a) || !std::isfinite(b) || std::isfinite(result), what, " raises ", a,
              " to the power ", b, ", which is no finite number");
  return result;
}

std::int64_t floor_modulo(std::int64_t a, std::int64_t b) {
  const std::int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  const std::int64_t result = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? result - 1 : result;
}

void check_size(const char* schedule, const char* name, std::int64_t value) {
  TORCH_CHECK(value <= kMaxWhole && value >= -kMaxWhole, schedule, ": ", name, " is ", value,
              "; it must be from -2^53 to 2^53");
}

}  // namespace lockstep::optim::lr_scheduler

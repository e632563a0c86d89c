// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <torch/optim/optimizer.h>

#include <array>
#include <tuple>

#include <lockstep/optim/named_optimizer.h>

namespace lockstep::optim {

/// The options as what they are. `optimizer`: its name.
template <class Options>
const Options& options_of(const torch::optim::OptimizerOptions& options, const char* optimizer) {
  const auto* own = dynamic_cast<const Options*>(&options);
  TORCH_CHECK(own != nullptr, "lockstep::optim::", optimizer,
              ": a group has options of another optimizer; expected lockstep::optim::", optimizer,
              "Options");
  return *own;
}
/// The same, to be changed.
template <class Options>
Options& options_of(torch::optim::OptimizerOptions& options, const char* optimizer) {
  return const_cast<Options&>(
      options_of<Options>(static_cast<const torch::optim::OptimizerOptions&>(options), optimizer));
}

/// Python refuses the same; a NaN as well.
inline void check_not_negative(const char* optimizer, const char* name, double value) {
  TORCH_CHECK(value >= 0, "lockstep::optim::", optimizer, ": ", name, " is ", value,
              "; expected 0 or more");
}

inline void check_fraction(const char* optimizer, const char* name, double value) {
  TORCH_CHECK(value >= 0 && value < 1, "lockstep::optim::", optimizer, ": ", name, " is ", value,
              "; expected 0 or more, and less than 1");
}

inline void check_nesterov(const char* optimizer, bool nesterov, double momentum,
                           double dampening) {
  TORCH_CHECK(!nesterov || (momentum > 0 && dampening == 0), "lockstep::optim::", optimizer,
              ": nesterov needs a momentum above 0 and a dampening of 0; they are ", momentum,
              " and ", dampening);
}

inline void visit_betas(std::tuple<double, double>& betas, OptionVisitor& visitor) {
  std::array<double, 2> both{std::get<0>(betas), std::get<1>(betas)};
  visitor.numbers("betas", both);
  betas = {both[0], both[1]};
}

}  // namespace lockstep::optim

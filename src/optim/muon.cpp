// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/addmm.h>
#include <c10/util/Exception.h>
#include <lockstep/optim/muon.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "optim/option_checks.h"
#include "optim/parameter_list.h"

namespace lockstep::optim {
namespace {

constexpr std::int64_t kMostIterations = 99;  // as in Python

/// Brings the singular values of a matrix near 1, by Newton-Schulz iterations.
at::Tensor orthogonalized(const at::Tensor& matrix, const MuonOptions& options) {
  const auto [a, b, c] = options.ns_coefficients();
  const bool is_tall = matrix.size(0) > matrix.size(1);
  auto x = matrix.to(options.ns_dtype(), /*non_blocking=*/false, /*copy=*/true);
  if (is_tall) x = x.t();
  x.div_(x.norm().clamp_min(options.eps()));
  for (std::int64_t i = 0; i < options.ns_steps(); ++i) {
    const auto gram = x.mm(x.t());
    const auto polynomial = at::addmm(gram, gram, gram, b, c);
    x = at::addmm(x, polynomial, x, a, 1);
  }
  return is_tall ? x.t() : x;
}

double adjusted_rate(const MuonOptions& options, const at::Tensor& parameter) {
  const auto rows = static_cast<double>(parameter.size(0));
  const auto columns = static_cast<double>(parameter.size(1));
  if (options.adjust_lr_fn() == "match_rms_adamw") {
    return options.lr() * (0.2 * std::sqrt(std::max(rows, columns)));
  }
  return options.lr() * std::sqrt(std::max(1.0, rows / columns));
}

}  // namespace

Muon::Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups, MuonOptions defaults)
    : Optimizer(groups, std::make_unique<MuonOptions>(std::move(defaults))) {
  check_groups();
}

void Muon::check(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<MuonOptions>(options, "Muon");
  check_not_negative("Muon", "lr", own.lr());
  check_not_negative("Muon", "momentum", own.momentum());
  check_not_negative("Muon", "weight_decay", own.weight_decay());
  const auto& function = own.adjust_lr_fn();
  TORCH_CHECK(!function || *function == "original" || *function == "match_rms_adamw",
              "lockstep::optim::Muon: adjust_lr_fn is '", function.value_or(""),
              "'; expected 'original', 'match_rms_adamw' or none");
  TORCH_CHECK(own.ns_steps() >= 0 && own.ns_steps() <= kMostIterations,
              "lockstep::optim::Muon: ns_steps is ", own.ns_steps(), "; expected 0 to ",
              kMostIterations);
  TORCH_CHECK(at::isFloatingType(own.ns_dtype()), "lockstep::optim::Muon: ns_dtype is ",
              own.ns_dtype(), "; expected a floating type");
}

void Muon::check_parameter(const at::Tensor& parameter) const {
  Optimizer::check_parameter(parameter);
  TORCH_CHECK(parameter.dim() == 2, "lockstep::optim::Muon: a parameter is of shape ",
              parameter.sizes(),
              "; expected matrices only: the others belong into another optimizer");
}

StateForm Muon::state_form(const torch::optim::OptimizerOptions& /*options*/) const {
  StateForm form;
  form.tensors[0] = {"momentum_buffer"};
  return form;
}

void Muon::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  const auto& own = options_of<MuonOptions>(options, "Muon");
  for (std::size_t i = 0; i < list.parameters.size(); ++i) {
    auto& parameter = list.parameters[i];
    const auto& gradient = list.gradients[i];
    auto& average = list.tensors[0][i];
    average.lerp_(gradient, 1 - own.momentum());
    const auto update = own.nesterov() ? gradient.lerp(average, own.momentum()) : average;
    parameter.mul_(1 - own.lr() * own.weight_decay());
    parameter.add_(orthogonalized(update, own), -adjusted_rate(own, parameter));
  }
}

void Muon::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  auto& own = options_of<MuonOptions>(options, "Muon");
  visitor.number("lr", own.lr());
  visitor.number("weight_decay", own.weight_decay());
  visitor.number("momentum", own.momentum());
  visitor.flag("nesterov", own.nesterov());
  auto& [a, b, c] = own.ns_coefficients();
  std::array<double, 3> coefficients{a, b, c};
  visitor.numbers("ns_coefficients", coefficients);
  own.ns_coefficients({coefficients[0], coefficients[1], coefficients[2]});
  visitor.number("eps", own.eps());
  visitor.integer("ns_steps", own.ns_steps());
  visitor.optional_text("adjust_lr_fn", own.adjust_lr_fn());
}

}  // namespace lockstep::optim

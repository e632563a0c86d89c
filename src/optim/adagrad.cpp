// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcdiv.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_neg.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_fused_adagrad.h>
#include <c10/core/Scalar.h>
#include <lockstep/optim/adagrad.h>

#include <memory>

#include "optim/option_checks.h"
#include "optim/pieces.h"

namespace lockstep::optim {
namespace {

/// As Python's default does it.
void update_adagrad_piece(const AdagradOptions& options, ListPiece& piece) {
  auto gradients = piece.gradients;
  if (options.maximize()) gradients = at::_foreach_neg(gradients);
  if (options.weight_decay() != 0) {
    gradients = at::_foreach_add(gradients, piece.parameters, options.weight_decay());
  }
  std::vector<at::Scalar> rates;
  for (const auto step : piece.steps) {
    rates.emplace_back(-options.lr() / (1 + static_cast<double>(step - 1) * options.lr_decay()));
  }
  auto& sums = piece.tensors[0];
  at::_foreach_addcmul_(sums, gradients, gradients, 1);
  auto denominators = at::_foreach_sqrt(sums);
  at::_foreach_add_(denominators, options.eps());
  at::_foreach_addcdiv_(piece.parameters, at::_foreach_mul(gradients, rates), denominators);
}

}  // namespace

Adagrad::Adagrad(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 AdagradOptions defaults)
    : Optimizer(groups, std::make_unique<AdagradOptions>(std::move(defaults))) {
  check_groups();
}

void Adagrad::check(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<AdagradOptions>(options, "Adagrad");
  check_not_negative("Adagrad", "lr", own.lr());
  check_not_negative("Adagrad", "lr_decay", own.lr_decay());
  check_not_negative("Adagrad", "weight_decay", own.weight_decay());
  check_not_negative("Adagrad", "initial_accumulator_value", own.initial_accumulator_value());
  check_not_negative("Adagrad", "eps", own.eps());
}

StateForm Adagrad::state_form(const torch::optim::OptimizerOptions& options) const {
  StateForm form;
  form.tensors[0] = {"sum", true, true,
                     options_of<AdagradOptions>(options, "Adagrad").initial_accumulator_value()};
  form.counts_steps = true;
  return form;
}

void Adagrad::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  const auto& own = options_of<AdagradOptions>(options, "Adagrad");
  if (!own.fused() || !has_fused_operators(list.device)) {
    for_each_piece(list, true, [&](ListPiece& piece) { update_adagrad_piece(own, piece); });
    return;
  }
  at::_fused_adagrad_(list.parameters, list.gradients, list.tensors[0], list.step_tensors, own.lr(),
                      own.lr_decay(), own.weight_decay(), own.eps(), own.maximize());
}

void Adagrad::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  auto& own = options_of<AdagradOptions>(options, "Adagrad");
  visitor.number("lr", own.lr());
  visitor.number("lr_decay", own.lr_decay());
  visitor.number("eps", own.eps());
  visitor.number("weight_decay", own.weight_decay());
  visitor.number("initial_accumulator_value", own.initial_accumulator_value());
  visitor.constant("foreach", "null");
  visitor.flag("maximize", own.maximize());
  visitor.constant("differentiable", "false");
  visitor.choice("fused", own.fused());
}

}  // namespace lockstep::optim

// SPDX-License-Identifier: BSD-3-Clause
#include "optim/adam_rule.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcdiv.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_maximum.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_neg.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/Scalar.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "optim/pieces.h"

namespace lockstep::optim {
namespace {

/// As Python's default does it.
void update_adam_piece(const AdamRule& rule, ListPiece& piece) {
  auto gradients = piece.gradients;
  if (rule.maximize) gradients = at::_foreach_neg(gradients);
  if (rule.weight_decay != 0) {
    if (rule.is_decay_decoupled) {
      at::_foreach_mul_(piece.parameters, 1 - rule.lr * rule.weight_decay);
    } else {
      gradients = at::_foreach_add(gradients, piece.parameters, rule.weight_decay);
    }
  }
  auto& averages = piece.tensors[0];
  auto& squares = piece.tensors[1];
  at::_foreach_lerp_(averages, gradients, 1 - rule.beta1);
  at::_foreach_mul_(squares, rule.beta2);
  at::_foreach_addcmul_(squares, gradients, gradients, 1 - rule.beta2);
  std::vector<at::Scalar> rates;
  std::vector<at::Scalar> roots;
  for (const auto step : piece.steps) {
    const auto count = static_cast<double>(step);
    rates.emplace_back((rule.lr / (1 - std::pow(rule.beta1, count))) * -1);
    // pow, as in Python: sqrt rounds differently.
    roots.emplace_back(std::pow(1 - std::pow(rule.beta2, count), 0.5));
  }
  if (rule.amsgrad) at::_foreach_maximum_(piece.tensors[2], squares);
  auto denominators = at::_foreach_sqrt(rule.amsgrad ? piece.tensors[2] : squares);
  at::_foreach_div_(denominators, roots);
  at::_foreach_add_(denominators, rule.eps);
  at::_foreach_addcdiv_(piece.parameters, averages, denominators, rates);
}

}  // namespace

void check_adam(const AdamRule& rule, const char* optimizer) {
  check_not_negative(optimizer, "lr", rule.lr);
  check_fraction(optimizer, "the first of betas", rule.beta1);
  check_fraction(optimizer, "the second of betas", rule.beta2);
  check_not_negative(optimizer, "eps", rule.eps);
  check_not_negative(optimizer, "weight_decay", rule.weight_decay);
}

StateForm adam_state_form(const AdamRule& rule) {
  StateForm form;
  form.tensors[0] = {"exp_avg"};
  form.tensors[1] = {"exp_avg_sq"};
  form.tensors[2] = {"max_exp_avg_sq", rule.amsgrad, false};
  form.counts_steps = true;
  return form;
}

void update_adam(const AdamRule& rule, ParameterList& list) {
  if (!rule.fused || !has_fused_operators(list.device)) {
    for_each_piece(list, true, [&](ListPiece& piece) { update_adam_piece(rule, piece); });
    return;
  }
  const auto fused = [&](const auto& call) {
    call(list.parameters, list.gradients, list.tensors[0], list.tensors[1], list.tensors[2],
         list.step_tensors, rule.lr, rule.beta1, rule.beta2, rule.weight_decay, rule.eps,
         rule.amsgrad, rule.maximize);
  };
  if (rule.is_decay_decoupled) {
    fused([](const auto&... arguments) { at::_fused_adamw_(arguments...); });
  } else {
    fused([](const auto&... arguments) { at::_fused_adam_(arguments...); });
  }
}

}  // namespace lockstep::optim

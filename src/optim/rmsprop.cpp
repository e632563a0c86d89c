// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcdiv.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_neg.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <lockstep/optim/rmsprop.h>

#include <memory>

#include "optim/option_checks.h"
#include "optim/pieces.h"

namespace lockstep::optim {
namespace {

enum RMSpropTensor : std::size_t { kSquareAverage, kMomentum, kGradientAverage };

void update_rmsprop_piece(const RMSpropOptions& options, ListPiece& piece) {
  auto gradients = piece.gradients;
  if (options.maximize()) gradients = at::_foreach_neg(gradients);
  if (options.weight_decay() != 0) {
    gradients = at::_foreach_add(gradients, piece.parameters, options.weight_decay());
  }
  auto& squares = piece.tensors[kSquareAverage];
  at::_foreach_mul_(squares, options.alpha());
  at::_foreach_addcmul_(squares, gradients, gradients, 1 - options.alpha());
  std::vector<at::Tensor> denominators;
  if (options.centered()) {
    auto& averages = piece.tensors[kGradientAverage];
    at::_foreach_lerp_(averages, gradients, 1 - options.alpha());
    denominators = at::_foreach_addcmul(squares, averages, averages, -1);
    at::_foreach_sqrt_(denominators);
  } else {
    denominators = at::_foreach_sqrt(squares);
  }
  at::_foreach_add_(denominators, options.eps());
  if (options.momentum() > 0) {
    auto& buffers = piece.tensors[kMomentum];
    at::_foreach_mul_(buffers, options.momentum());
    at::_foreach_addcdiv_(buffers, gradients, denominators);
    at::_foreach_add_(piece.parameters, buffers, -options.lr());
  } else {
    at::_foreach_addcdiv_(piece.parameters, gradients, denominators, -options.lr());
  }
}

}  // namespace

RMSprop::RMSprop(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 RMSpropOptions defaults)
    : Optimizer(groups, std::make_unique<RMSpropOptions>(std::move(defaults))) {
  check_groups();
}

void RMSprop::check(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<RMSpropOptions>(options, "RMSprop");
  check_not_negative("RMSprop", "lr", own.lr());
  check_not_negative("RMSprop", "alpha", own.alpha());
  check_not_negative("RMSprop", "eps", own.eps());
  check_not_negative("RMSprop", "weight_decay", own.weight_decay());
  check_not_negative("RMSprop", "momentum", own.momentum());
}

StateForm RMSprop::state_form(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<RMSpropOptions>(options, "RMSprop");
  StateForm form;
  form.tensors[kSquareAverage] = {"square_avg"};
  form.tensors[kMomentum] = {"momentum_buffer", own.momentum() > 0, false};
  form.tensors[kGradientAverage] = {"grad_avg", own.centered(), false};
  form.counts_steps = true;
  return form;
}

void RMSprop::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  const auto& own = options_of<RMSpropOptions>(options, "RMSprop");
  for_each_piece(list, true, [&](ListPiece& piece) { update_rmsprop_piece(own, piece); });
}

void RMSprop::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  auto& own = options_of<RMSpropOptions>(options, "RMSprop");
  visitor.number("lr", own.lr());
  visitor.number("momentum", own.momentum());
  visitor.number("alpha", own.alpha());
  visitor.number("eps", own.eps());
  visitor.flag("centered", own.centered());
  visitor.number("weight_decay", own.weight_decay());
  visitor.constant("capturable", "false");
  visitor.constant("foreach", "null");
  visitor.flag("maximize", own.maximize());
  visitor.constant("differentiable", "false");
}

}  // namespace lockstep::optim

// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_neg.h>
#include <ATen/ops/_fused_sgd.h>
#include <lockstep/optim/sgd.h>

#include <memory>

#include "optim/momentum_buffers.h"
#include "optim/option_checks.h"
#include "optim/pieces.h"

namespace lockstep::optim {
namespace {

/// As Python's default does it.
void update_sgd_piece(const SGDOptions& options, ListPiece& piece, bool is_first_step) {
  auto gradients = piece.gradients;
  if (options.maximize()) gradients = at::_foreach_neg(gradients);
  if (options.weight_decay() != 0) {
    gradients = at::_foreach_add(gradients, piece.parameters, options.weight_decay());
  }
  const auto direction = follow_momentum(options, gradients, piece.tensors[0], is_first_step);
  at::_foreach_add_(piece.parameters, direction, -options.lr());
}

}  // namespace

SGD::SGD(const std::vector<torch::optim::OptimizerParamGroup>& groups, SGDOptions defaults)
    : Optimizer(groups, std::make_unique<SGDOptions>(std::move(defaults))) {
  check_groups();
}

void SGD::check(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<SGDOptions>(options, "SGD");
  check_not_negative("SGD", "lr", own.lr());
  check_not_negative("SGD", "momentum", own.momentum());
  check_not_negative("SGD", "weight_decay", own.weight_decay());
  check_nesterov("SGD", own.nesterov(), own.momentum(), own.dampening());
}

StateForm SGD::state_form(const torch::optim::OptimizerOptions& options) const {
  StateForm form;
  form.tensors[0] = {"momentum_buffer", options_of<SGDOptions>(options, "SGD").momentum() != 0,
                     false, 0};
  form.starts_with_gradient = true;
  return form;
}

void SGD::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  const auto& own = options_of<SGDOptions>(options, "SGD");
  if (!own.fused() || !has_fused_operators(list.device)) {
    for_each_piece(list, true,
                   [&](ListPiece& piece) { update_sgd_piece(own, piece, list.is_first_step); });
    return;
  }
  at::_fused_sgd_(list.parameters, list.gradients, list.tensors[0], own.weight_decay(),
                  own.momentum(), own.lr(), own.dampening(), own.nesterov(), own.maximize(),
                  list.is_first_step);
}

void SGD::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  auto& own = options_of<SGDOptions>(options, "SGD");
  visitor.number("lr", own.lr());
  visitor.number("momentum", own.momentum());
  visitor.number("dampening", own.dampening());
  visitor.number("weight_decay", own.weight_decay());
  visitor.flag("nesterov", own.nesterov());
  visitor.flag("maximize", own.maximize());
  visitor.constant("foreach", "null");
  visitor.constant("differentiable", "false");
  visitor.choice("fused", own.fused());
}

}  // namespace lockstep::optim

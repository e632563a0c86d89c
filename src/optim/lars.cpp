// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_norm.h>
#include <lockstep/optim/lars.h>

#include <memory>

#include "optim/momentum_buffers.h"
#include "optim/option_checks.h"
#include "optim/pieces.h"
#include "optim/trust_ratio.h"

namespace lockstep::optim {
namespace {

/// Gradients with weight decay, those of matrices and kernels scaled to the norm of the parameter.
std::vector<at::Tensor> lars_gradients(const LARSOptions& options, const ListPiece& piece) {
  const auto norms = at::_foreach_norm(piece.parameters, 2);
  const auto gradient_norms = at::_foreach_norm(piece.gradients, 2);
  // A copy at any rate: the program's gradients stay as they are.
  auto gradients = at::_foreach_add(piece.gradients, piece.parameters, options.weight_decay());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (piece.parameters[i].dim() < 2) continue;
    const auto denominator =
        norms[i].mul(options.weight_decay()).add_(gradient_norms[i]).add_(options.eps());
    auto ratio = ratio_unless_zero(norms[i].mul(options.trust_coeff()).div_(denominator), norms[i],
                                   gradient_norms[i]);
    if (options.trust_clip()) ratio.div_(options.lr()).clamp_max_(1.0);
    gradients[i].mul_(ratio);
  }
  return gradients;
}

void update_lars_piece(const LARSOptions& options, ListPiece& piece, bool is_first_step) {
  const auto gradients = lars_gradients(options, piece);
  const auto direction = follow_momentum(options, gradients, piece.tensors[0], is_first_step);
  at::_foreach_add_(piece.parameters, direction, -options.lr());
}

}  // namespace

LARS::LARS(const std::vector<torch::optim::OptimizerParamGroup>& groups, LARSOptions defaults)
    : Optimizer(groups, std::make_unique<LARSOptions>(std::move(defaults))) {
  check_groups();
}

void LARS::check(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<LARSOptions>(options, "LARS");
  check_not_negative("LARS", "lr", own.lr());
  check_not_negative("LARS", "momentum", own.momentum());
  check_not_negative("LARS", "weight_decay", own.weight_decay());
  check_not_negative("LARS", "trust_coeff", own.trust_coeff());
  check_not_negative("LARS", "eps", own.eps());
  check_nesterov("LARS", own.nesterov(), own.momentum(), own.dampening());
}

StateForm LARS::state_form(const torch::optim::OptimizerOptions& options) const {
  StateForm form;
  form.tensors[0] = {"momentum_buffer", options_of<LARSOptions>(options, "LARS").momentum() != 0,
                     false, 0};
  form.starts_with_gradient = true;
  return form;
}

void LARS::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  const auto& own = options_of<LARSOptions>(options, "LARS");
  for_each_piece(list, false,
                 [&](ListPiece& piece) { update_lars_piece(own, piece, list.is_first_step); });
}

void LARS::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  auto& own = options_of<LARSOptions>(options, "LARS");
  visitor.number("lr", own.lr());
  visitor.number("momentum", own.momentum());
  visitor.number("dampening", own.dampening());
  visitor.number("weight_decay", own.weight_decay());
  visitor.flag("nesterov", own.nesterov());
  visitor.number("trust_coeff", own.trust_coeff());
  visitor.number("eps", own.eps());
  visitor.flag("trust_clip", own.trust_clip());
}

}  // namespace lockstep::optim

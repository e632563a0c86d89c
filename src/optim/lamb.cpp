// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <c10/core/Scalar.h>
#include <lockstep/optim/lamb.h>

#include <cmath>
#include <memory>

#include "optim/option_checks.h"
#include "optim/pieces.h"
#include "optim/trust_ratio.h"

namespace lockstep::optim {
namespace {

/// Adam's update, before the learning rate.
std::vector<at::Tensor> lamb_updates(const LAMBOptions& options, const at::Tensor& clip,
                                     ListPiece& piece) {
  const auto [beta1, beta2] = options.betas();
  const auto gradients = clip.defined() ? at::_foreach_div(piece.gradients, clip) : piece.gradients;
  auto& averages = piece.tensors[0];
  auto& squares = piece.tensors[1];
  at::_foreach_mul_(averages, beta1);
  at::_foreach_add_(averages, gradients, options.grad_averaging() ? 1 - beta1 : 1.0);
  at::_foreach_mul_(squares, beta2);
  at::_foreach_addcmul_(squares, gradients, gradients, 1 - beta2);
  std::vector<at::Scalar> corrections;
  std::vector<at::Scalar> roots;
  for (const auto step : piece.steps) {
    const auto count = static_cast<double>(step);
    corrections.emplace_back(options.bias_correction() ? 1 - std::pow(beta1, count) : 1.0);
    roots.emplace_back(options.bias_correction() ? std::sqrt(1 - std::pow(beta2, count)) : 1.0);
  }
  auto denominators = at::_foreach_sqrt(squares);
  at::_foreach_div_(denominators, roots);
  at::_foreach_add_(denominators, options.eps());
  auto updates = at::_foreach_div(averages, corrections);
  at::_foreach_div_(updates, denominators);
  if (options.weight_decay() != 0) {
    at::_foreach_add_(updates, piece.parameters, options.weight_decay());
  }
  return updates;
}

void update_lamb_piece(const LAMBOptions& options, const at::Tensor& clip, ListPiece& piece) {
  auto updates = lamb_updates(options, clip, piece);
  if (options.weight_decay() != 0 || options.always_adapt()) {
    const auto norms = at::_foreach_norm(piece.parameters, 2);
    const auto update_norms = at::_foreach_norm(updates, 2);
    for (std::size_t i = 0; i < updates.size(); ++i) {
      auto ratio = ratio_unless_zero(norms[i].div(update_norms[i]), norms[i], update_norms[i]);
      if (options.trust_clip()) ratio.clamp_max_(1.0);
      updates[i].mul_(ratio);
    }
  }
  at::_foreach_add_(piece.parameters, updates, -options.lr());
}

}  // namespace

LAMB::LAMB(const std::vector<torch::optim::OptimizerParamGroup>& groups, LAMBOptions defaults)
    : Optimizer(groups, std::make_unique<LAMBOptions>(std::move(defaults))) {
  check_groups();
}

void LAMB::check(const torch::optim::OptimizerOptions& options) const {
  const auto& own = options_of<LAMBOptions>(options, "LAMB");
  check_not_negative("LAMB", "lr", own.lr());
  check_fraction("LAMB", "the first of betas", std::get<0>(own.betas()));
  check_fraction("LAMB", "the second of betas", std::get<1>(own.betas()));
  check_not_negative("LAMB", "eps", own.eps());
  check_not_negative("LAMB", "weight_decay", own.weight_decay());
  TORCH_CHECK(!own.max_grad_norm() || *own.max_grad_norm() > 0,
              "lockstep::optim::LAMB: max_grad_norm is ", own.max_grad_norm().value_or(0),
              "; expected more than 0, or none");
}

StateForm LAMB::state_form(const torch::optim::OptimizerOptions& /*options*/) const {
  StateForm form;
  form.tensors[0] = {"exp_avg"};
  form.tensors[1] = {"exp_avg_sq"};
  form.counts_steps = true;
  return form;
}

void LAMB::begin(std::vector<ParameterList>& lists) {
  gradient_norm_ = at::Tensor();
  bool clips = false;
  std::vector<at::Tensor> norms;
  for (const auto& list : lists) {
    const auto& options =
        options_of<LAMBOptions>(std::as_const(param_groups_[list.group].options()), "LAMB");
    clips = clips || options.max_grad_norm().has_value();
  }
  if (!clips) return;
  for (const auto& list : lists) {
    for (const auto& norm : at::_foreach_norm(list.gradients, 2)) {
      norms.push_back(norm.to(lists.front().device, lists.front().parameters[0].scalar_type()));
    }
  }
  gradient_norm_ = at::linalg_vector_norm(at::stack(norms));
}

void LAMB::update(const torch::optim::OptimizerOptions& options, ParameterList& list) {
  const auto& own = options_of<LAMBOptions>(options, "LAMB");
  at::Tensor clip;
  if (own.max_grad_norm()) {
    clip = gradient_norm_.div(*own.max_grad_norm())
               .clamp_min_(1.0)
               .to(list.device, list.parameters[0].scalar_type());
  }
  for_each_piece(list, false, [&](ListPiece& piece) { update_lamb_piece(own, clip, piece); });
}

void LAMB::visit_options(torch::optim::OptimizerOptions& options, OptionVisitor& visitor) const {
  auto& own = options_of<LAMBOptions>(options, "LAMB");
  visitor.number("lr", own.lr());
  visit_betas(own.betas(), visitor);
  visitor.number("eps", own.eps());
  visitor.number("weight_decay", own.weight_decay());
  visitor.flag("bias_correction", own.bias_correction());
  visitor.flag("grad_averaging", own.grad_averaging());
  visitor.optional_number("max_grad_norm", own.max_grad_norm());
  visitor.flag("trust_clip", own.trust_clip());
  visitor.flag("always_adapt", own.always_adapt());
}

}  // namespace lockstep::optim

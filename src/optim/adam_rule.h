// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/optimizer.h>

#include <tuple>

#include "optim/option_checks.h"
#include "optim/parameter_list.h"

namespace lockstep::optim {

/// What Adam and AdamW have in common.
struct AdamRule {
  double lr = 0;
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
  bool amsgrad = false;
  bool maximize = false;
  bool fused = true;
  bool is_decay_decoupled = false;
};

template <class Options>
AdamRule adam_rule(const Options& options, bool is_decay_decoupled) {
  return {options.lr(),
          std::get<0>(options.betas()),
          std::get<1>(options.betas()),
          options.eps(),
          options.weight_decay(),
          options.amsgrad(),
          options.maximize(),
          options.fused(),
          is_decay_decoupled};
}

void check_adam(const AdamRule& rule, const char* optimizer);
[[nodiscard]] StateForm adam_state_form(const AdamRule& rule);
void update_adam(const AdamRule& rule, ParameterList& list);

template <class Options>
void visit_adam(Options& options, bool is_decay_decoupled, OptionVisitor& visitor) {
  visitor.number("lr", options.lr());
  visit_betas(options.betas(), visitor);
  visitor.number("eps", options.eps());
  visitor.number("weight_decay", options.weight_decay());
  visitor.flag("amsgrad", options.amsgrad());
  visitor.flag("maximize", options.maximize());
  visitor.constant("foreach", "null");
  visitor.constant("capturable", "false");
  visitor.constant("differentiable", "false");
  visitor.choice("fused", options.fused());
  visitor.constant("decoupled_weight_decay", is_decay_decoupled ? "true" : "false");
}

}  // namespace lockstep::optim

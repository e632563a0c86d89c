// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

namespace lockstep::training {

/// The fields of LibTorch's optimizers under Python's names. `visit` has a function for each kind
/// of field: `shaped` for tensors of the parameter's shape, `optional` for those that need not be
/// there, `flat` for vectors of all elements of all parameters.
template <class Visit>
void visit_state(torch::optim::SGDParamState& state, Visit& visit) {
  visit.optional("momentum_buffer", state.momentum_buffer());
}

template <class State, class Visit>
void visit_adam_state(State& state, Visit& visit) {
  visit.count("step", state.step());
  visit.shaped("exp_avg", state.exp_avg());
  visit.shaped("exp_avg_sq", state.exp_avg_sq());
  visit.optional("max_exp_avg_sq", state.max_exp_avg_sq());
}
template <class Visit>
void visit_state(torch::optim::AdamParamState& state, Visit& visit) {
  visit_adam_state(state, visit);
}
template <class Visit>
void visit_state(torch::optim::AdamWParamState& state, Visit& visit) {
  visit_adam_state(state, visit);
}

template <class Visit>
void visit_state(torch::optim::RMSpropParamState& state, Visit& visit) {
  visit.count("step", state.step());
  visit.shaped("square_avg", state.square_avg());
  visit.optional("momentum_buffer", state.momentum_buffer());
  visit.optional("grad_avg", state.grad_avg());
}

template <class Visit>
void visit_state(torch::optim::AdagradParamState& state, Visit& visit) {
  visit.count("step", state.step());
  visit.shaped("sum", state.sum());
}

template <class Visit>
void visit_state(torch::optim::LBFGSParamState& state, Visit& visit) {
  visit.integer("func_evals", state.func_evals());
  visit.integer("n_iter", state.n_iter());
  visit.number("t", state.t());
  visit.number("prev_loss", state.prev_loss());
  visit.flat("d", state.d());
  visit.scalar("H_diag", state.H_diag());
  visit.flat("prev_flat_grad", state.prev_flat_grad());
  visit.flats("old_dirs", state.old_dirs());
  visit.flats("old_stps", state.old_stps());
  visit.scalars("ro", state.ro());
  visit.scratch("al");  // made anew in each step
}

template <class Visit>
void visit_options(torch::optim::SGDOptions& options, Visit& visit) {
  visit("lr", options.lr());
  visit("momentum", options.momentum());
  visit("dampening", options.dampening());
  visit("weight_decay", options.weight_decay());
  visit("nesterov", options.nesterov());
}

template <class Options, class Visit>
void visit_adam_options(Options& options, Visit& visit) {
  visit("lr", options.lr());
  visit("betas", options.betas());
  visit("eps", options.eps());
  visit("weight_decay", options.weight_decay());
  visit("amsgrad", options.amsgrad());
}
template <class Visit>
void visit_options(torch::optim::AdamOptions& options, Visit& visit) {
  visit_adam_options(options, visit);
}
template <class Visit>
void visit_options(torch::optim::AdamWOptions& options, Visit& visit) {
  visit_adam_options(options, visit);
}

template <class Visit>
void visit_options(torch::optim::RMSpropOptions& options, Visit& visit) {
  visit("lr", options.lr());
  visit("alpha", options.alpha());
  visit("eps", options.eps());
  visit("weight_decay", options.weight_decay());
  visit("momentum", options.momentum());
  visit("centered", options.centered());
}

template <class Visit>
void visit_options(torch::optim::AdagradOptions& options, Visit& visit) {
  visit("lr", options.lr());
  visit("lr_decay", options.lr_decay());
  visit("weight_decay", options.weight_decay());
  visit("initial_accumulator_value", options.initial_accumulator_value());
  visit("eps", options.eps());
}

template <class Visit>
void visit_options(torch::optim::LBFGSOptions& options, Visit& visit) {
  visit("lr", options.lr());
  visit("max_iter", options.max_iter());
  visit("max_eval", options.max_eval());
  visit("tolerance_grad", options.tolerance_grad());
  visit("tolerance_change", options.tolerance_change());
  visit("history_size", options.history_size());
  visit("line_search_fn", options.line_search_fn());
}

}  // namespace lockstep::training

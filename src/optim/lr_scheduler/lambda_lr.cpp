// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/lambda_lr.h>

#include <cstddef>
#include <utility>

namespace lockstep::optim::lr_scheduler {
namespace {

std::vector<LRLambda> for_each_group(const ScheduledOptimizer& optimizer, LRLambda lr_lambda) {
  return {optimizer.optimizer().param_groups().size(), std::move(lr_lambda)};
}

void check_lambdas(const char* schedule, const std::vector<LRLambda>& lr_lambdas,
                   std::size_t groups) {
  TORCH_CHECK(lr_lambdas.size() == groups, schedule, ": expected ", groups, " lr_lambdas, but got ",
              lr_lambdas.size());
  for (const auto& lr_lambda : lr_lambdas) {
    TORCH_CHECK(lr_lambda, schedule, ": lr_lambda is an empty function");
  }
}

/// What Python writes for functions.
std::string json_nulls(std::size_t count) {
  std::string json(1, '[');
  for (std::size_t i = 0; i < count; ++i) json += i == 0 ? "null" : ",null";
  return json + ']';
}

/// Each rate times what its function says.
std::vector<double> times_lambdas(const char* schedule, std::vector<double> rates,
                                  const std::vector<LRLambda>& lr_lambdas, std::int64_t epoch) {
  check_lambdas(schedule, lr_lambdas, rates.size());
  for (std::size_t i = 0; i < rates.size(); ++i) rates[i] *= lr_lambdas[i](epoch);
  return rates;
}

}  // namespace

LambdaLR::LambdaLR(const ScheduledOptimizer& optimizer, LRLambda lr_lambda, std::int64_t last_epoch)
    : LambdaLR(optimizer, for_each_group(optimizer, std::move(lr_lambda)), last_epoch) {}

LambdaLR::LambdaLR(const ScheduledOptimizer& optimizer, std::vector<LRLambda> lr_lambda,
                   std::int64_t last_epoch)
    : EpochLR("LambdaLR", optimizer, last_epoch), lr_lambdas_(std::move(lr_lambda)) {
  check_lambdas(name(), lr_lambdas_, base_lrs().size());
  initial_step();
}

std::vector<double> LambdaLR::get_lr() {
  return times_lambdas(name(), base_lrs(), lr_lambdas_, last_epoch());
}

void LambdaLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.ignored("lr_lambdas", json_nulls(lr_lambdas_.size()));
}

MultiplicativeLR::MultiplicativeLR(const ScheduledOptimizer& optimizer, LRLambda lr_lambda,
                                   std::int64_t last_epoch)
    : MultiplicativeLR(optimizer, for_each_group(optimizer, std::move(lr_lambda)), last_epoch) {}

MultiplicativeLR::MultiplicativeLR(const ScheduledOptimizer& optimizer,
                                   std::vector<LRLambda> lr_lambda, std::int64_t last_epoch)
    : EpochLR("MultiplicativeLR", optimizer, last_epoch), lr_lambdas_(std::move(lr_lambda)) {
  check_lambdas(name(), lr_lambdas_, base_lrs().size());
  initial_step();
}

std::vector<double> MultiplicativeLR::get_lr() {
  if (is_initial()) return group_rates();
  return times_lambdas(name(), group_rates(), lr_lambdas_, last_epoch());
}

void MultiplicativeLR::visit(StateFields& fields) {
  EpochLR::visit(fields);
  fields.ignored("lr_lambdas", json_nulls(lr_lambdas_.size()));
}

}  // namespace lockstep::optim::lr_scheduler

// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/zeros.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "parallel/hooks/bucket_layout.h"
#include "parallel/hooks/error_feedback.h"
#include "parallel/hooks/low_rank.h"
#include "parallel/hooks/parameter_map.h"

namespace lockstep::hooks {
namespace {

/// What is under way for one bucket.
struct MatrixExchange {
  GradientBucketView bucket;
  at::Tensor matrix;               // the gradients and their errors, filled up with zeros
  std::vector<at::Tensor> values;  // the gradients' places in it
  at::Tensor p;
  at::Tensor sent;  // what the all-reduce under way is about
};

std::int64_t side_for(const GradientBucketView& bucket) {
  const std::int64_t elements = bucket.buffer().numel();
  auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(elements)));
  while (side * side < elements) ++side;
  return side;
}

/// The factor that belongs to a bucket, as long as it is the same one.
struct BucketFactor {
  std::vector<WeakParameter> parameters;
  StartingFactor start;

  [[nodiscard]] bool is_for(const GradientBucketView& bucket) const {
    return std::equal(parameters.begin(), parameters.end(), bucket.parameters().begin(),
                      bucket.parameters().end(), [](const auto& weak, const at::Tensor& parameter) {
                        return weak._unsafe_get_target() == parameter.unsafeGetTensorImpl();
                      });
  }
};

}  // namespace

class BatchedPowerSgd::State : public std::enable_shared_from_this<BatchedPowerSgd::State> {
 public:
  explicit State(const PowerSgdOptions& options)
      : options_(options),
        generator_(at::make_generator<at::CPUGeneratorImpl>(options.random_seed())) {}

  Future<at::Tensor> run(ProcessGroup& group, const GradientBucketView& bucket);
  [[nodiscard]] std::uint64_t steps() const noexcept { return steps_; }
  [[nodiscard]] at::Tensor error_of(const at::Tensor& parameter) const {
    return errors_.of(parameter);
  }

 private:
  [[nodiscard]] std::int64_t rank_for(std::int64_t side) const {
    return std::min(options_.matrix_approximation_rank(), side);
  }
  StartingFactor& factor_of(const GradientBucketView& bucket);
  /// First half: everything up to the all-reduce of P.
  std::shared_ptr<MatrixExchange> begin(const GradientBucketView& bucket, std::int64_t side);
  /// Second half: from the mean of P to the Q that is sent.
  void continue_with_q(MatrixExchange& exchange) const;
  at::Tensor end(MatrixExchange& exchange);

  PowerSgdOptions options_;
  at::Generator generator_;
  std::uint64_t steps_ = 0;
  std::uint64_t plan_ = 0;
  std::map<std::size_t, BucketFactor> factors_;
  ErrorFeedback errors_;
};

StartingFactor& BatchedPowerSgd::State::factor_of(const GradientBucketView& bucket) {
  if (std::exchange(plan_, bucket.plan()) != bucket.plan()) factors_.clear();
  BucketFactor& factor = factors_[bucket.index()];
  // A model that was hooked anew counts its plans from 1.
  if (!factor.is_for(bucket)) {
    factor = {};
    for (const at::Tensor& parameter : bucket.parameters()) {
      factor.parameters.emplace_back(parameter.getIntrusivePtr());
    }
  }
  return factor.start;
}

std::shared_ptr<MatrixExchange> BatchedPowerSgd::State::begin(const GradientBucketView& bucket,
                                                              std::int64_t side) {
  const WithoutAutocast guard;
  const at::Tensor& buffer = bucket.buffer();
  const at::Tensor flat = at::zeros({side * side}, buffer.options().dtype(computing_dtype(bucket)));
  flat.narrow(0, 0, buffer.numel()).copy_(buffer);
  const auto exchange =
      std::make_shared<MatrixExchange>(MatrixExchange{bucket, flat.view({side, side}), {}, {}, {}});
  exchange->values = views_in(flat, bucket);
  if (options_.use_error_feedback()) {
    for (std::size_t i = 0; i < exchange->values.size(); ++i) {
      errors_.add(bucket.parameters()[i], exchange->values[i]);
    }
  }
  const at::Tensor start =
      factor_of(bucket).next(exchange->matrix, rank_for(side), options_, generator_);
  exchange->sent = exchange->matrix.mm(start).to(buffer.scalar_type());
  return exchange;
}

void BatchedPowerSgd::State::continue_with_q(MatrixExchange& exchange) const {
  const WithoutAutocast guard;
  exchange.p = orthogonalized(exchange.sent.to(exchange.matrix.scalar_type()),
                              options_.orthogonalization_epsilon());
  exchange.sent = exchange.matrix.t().mm(exchange.p).to(exchange.sent.scalar_type());
}

at::Tensor BatchedPowerSgd::State::end(MatrixExchange& exchange) {
  const WithoutAutocast guard;
  const at::Tensor q = exchange.sent.to(exchange.matrix.scalar_type());
  if (options_.warm_start()) factor_of(exchange.bucket).remember(q);
  const auto averages = views_in(exchange.p.mm(q.t()).flatten(), exchange.bucket);
  for (std::size_t i = 0; i < averages.size(); ++i) {
    // Not the zeros between the gradients, which would not be zeros then.
    const at::Tensor& gradient = exchange.bucket.gradients()[i];
    gradient.copy_(averages[i]);
    if (!options_.use_error_feedback()) continue;
    errors_.keep(exchange.bucket.parameters()[i], exchange.values[i].sub_(gradient));
  }
  return exchange.bucket.buffer();
}

Future<at::Tensor> BatchedPowerSgd::State::run(ProcessGroup& group,
                                               const GradientBucketView& bucket) {
  check_dtype("BatchedPowerSgd", bucket);
  const bool is_started = steps_ >= options_.start_iteration();
  if (bucket.is_last()) ++steps_;
  const std::int64_t side = side_for(bucket);
  const bool is_worth_it =
      is_worth_compressing(side, side, rank_for(side), options_.min_compression_rate());
  if (!is_started || !is_worth_it) return all_reduce()(group, bucket);
  const auto exchange = begin(bucket, side);
  const auto average = [&group, exchange, name = name_of(bucket)](const char* what) {
    const auto scope = group.with(CallOptions().name(what + name));
    return group.all_reduce(exchange->sent, ReduceOp::Avg);
  };
  return average("P of ").then([self = shared_from_this(), exchange, average] {
    self->continue_with_q(*exchange);
    return average("Q of ").then([self, exchange] { return self->end(*exchange); });
  });
}

BatchedPowerSgd::BatchedPowerSgd(const PowerSgdOptions& options) {
  check_options("BatchedPowerSgd", options);
  state_ = std::make_shared<State>(options);
}

Future<at::Tensor> BatchedPowerSgd::operator()(ProcessGroup& group,
                                               const GradientBucketView& bucket) const {
  return state_->run(group, bucket);
}

std::uint64_t BatchedPowerSgd::steps() const noexcept {
  return state_->steps();
}

at::Tensor BatchedPowerSgd::error_of(const at::Tensor& parameter) const {
  const at::Tensor error = state_->error_of(parameter);
  return error.defined() ? error.clone() : error;
}

}  // namespace lockstep::hooks

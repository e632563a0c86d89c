// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <c10/util/Exception.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/hooks/bucket_layout.h"
#include "parallel/hooks/error_feedback.h"
#include "parallel/hooks/hook_state.h"
#include "parallel/hooks/low_rank.h"
#include "parallel/hooks/parameter_map.h"

namespace lockstep::hooks {
namespace {

constexpr const char* kPowerSgd = "PowerSgd";

/// A gradient on its way as two factors.
struct CompressedGradient {
  at::Tensor parameter;
  at::Tensor gradient;  // in the bucket
  at::Tensor values;    // it and the error, in the dtype of computing and the parameter's shape
  at::Tensor matrix;    // the same as two dimensions
  at::Tensor p, q;
};

/// What is under way for one bucket.
struct LowRankExchange {
  at::Tensor buffer;
  std::vector<at::Tensor> whole;  // gradients that are not compressed
  std::vector<CompressedGradient> compressed;
  at::Tensor sent;  // what the all-reduce under way is about
};

/// The tensors' elements one after another, in `dtype`.
at::Tensor packed(const std::vector<at::Tensor>& tensors, at::ScalarType dtype) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& tensor : tensors) parts.push_back(tensor.to(dtype).flatten());
  return at::cat(parts);
}

/// Takes as many elements as `like` has from `flat`, and moves `offset` behind them.
at::Tensor unpacked(const at::Tensor& flat, std::int64_t& offset, const at::Tensor& like) {
  const at::Tensor part = flat.narrow(0, offset, like.numel()).view(like.sizes());
  offset += like.numel();
  return part;
}

std::int64_t rank_for(const at::Tensor& gradient, const PowerSgdOptions& options) {
  const std::int64_t rows = gradient.size(0);
  return std::min({options.matrix_approximation_rank(), rows, gradient.numel() / rows});
}

bool is_compressible(const at::Tensor& gradient, const PowerSgdOptions& options) {
  if (gradient.dim() < 2) return false;
  return is_worth_compressing(gradient.size(0), gradient.numel() / gradient.size(0),
                              rank_for(gradient, options), options.min_compression_rate());
}

}  // namespace

class PowerSgd::State : public std::enable_shared_from_this<PowerSgd::State> {
 public:
  explicit State(const PowerSgdOptions& options)
      : options_(options),
        now_{at::make_generator<at::CPUGeneratorImpl>(options.random_seed()), 0, {}, {}} {}

  Future<at::Tensor> run(ProcessGroup& group, const GradientBucketView& bucket);
  [[nodiscard]] std::uint64_t steps() const noexcept { return now_.steps; }
  [[nodiscard]] at::Tensor error_of(const at::Tensor& parameter) const {
    return now_.errors.of(parameter);
  }

  [[nodiscard]] HookState save(const ParametersByName& parameters) const;
  /// `has_errors`: whether the state has those of this rank.
  std::function<void()> prepare(const HookState& state, const ParametersByName& parameters,
                                bool has_errors);

 private:
  /// What changes from step to step.
  struct Progress {
    at::Generator generator;
    std::uint64_t steps = 0;
    ErrorFeedback errors;
    ParameterMap<StartingFactor> factors;
  };

  /// First half: everything up to the all-reduce of the Ps.
  std::shared_ptr<LowRankExchange> begin(const GradientBucketView& bucket);
  CompressedGradient compress(const at::Tensor& parameter, const at::Tensor& gradient,
                              at::ScalarType dtype);
  /// Second half: from the mean of the Ps to what the Qs send.
  void continue_with_qs(LowRankExchange& exchange);
  at::Tensor end(LowRankExchange& exchange);

  PowerSgdOptions options_;
  Progress now_;
};

CompressedGradient PowerSgd::State::compress(const at::Tensor& parameter,
                                             const at::Tensor& gradient, at::ScalarType dtype) {
  CompressedGradient result{parameter, gradient, {}, {}, {}, {}};
  // A copy where it will change, or where the gradient is overwritten before it was needed last.
  result.values = gradient.to(dtype, /*non_blocking=*/false, options_.use_error_feedback());
  if (options_.use_error_feedback()) now_.errors.add(parameter, result.values);
  result.matrix = result.values.flatten(1);
  const at::Tensor start = now_.factors[parameter].next(result.matrix, rank_for(gradient, options_),
                                                        options_, now_.generator);
  result.p = result.matrix.mm(start);
  return result;
}

std::shared_ptr<LowRankExchange> PowerSgd::State::begin(const GradientBucketView& bucket) {
  const WithoutAutocast guard;
  const auto exchange = std::make_shared<LowRankExchange>();
  exchange->buffer = bucket.buffer();
  for (std::size_t i = 0; i < bucket.gradients().size(); ++i) {
    const at::Tensor& gradient = bucket.gradients()[i];
    if (is_compressible(gradient, options_)) {
      exchange->compressed.push_back(
          compress(bucket.parameters()[i], gradient, computing_dtype(bucket)));
    } else {
      exchange->whole.push_back(gradient);
    }
  }
  if (exchange->compressed.empty()) return exchange;
  std::vector<at::Tensor> sent = exchange->whole;
  for (const auto& gradient : exchange->compressed) sent.push_back(gradient.p);
  exchange->sent = packed(sent, bucket.buffer().scalar_type());
  return exchange;
}

void PowerSgd::State::continue_with_qs(LowRankExchange& exchange) {
  const WithoutAutocast guard;
  std::int64_t offset = 0;
  for (const at::Tensor& gradient : exchange.whole) {
    gradient.copy_(unpacked(exchange.sent, offset, gradient));
  }
  std::vector<at::Tensor> qs;
  for (CompressedGradient& gradient : exchange.compressed) {
    const at::Tensor mean =
        unpacked(exchange.sent, offset, gradient.p).to(gradient.matrix.scalar_type());
    gradient.p = orthogonalized(mean, options_.orthogonalization_epsilon());
    gradient.q = gradient.matrix.t().mm(gradient.p);
    qs.push_back(gradient.q);
  }
  exchange.sent = packed(qs, exchange.buffer.scalar_type());
}

at::Tensor PowerSgd::State::end(LowRankExchange& exchange) {
  const WithoutAutocast guard;
  std::int64_t offset = 0;
  for (CompressedGradient& gradient : exchange.compressed) {
    const at::Tensor q =
        unpacked(exchange.sent, offset, gradient.q).to(gradient.matrix.scalar_type());
    gradient.gradient.copy_(gradient.p.mm(q.t()).view(gradient.gradient.sizes()));
    if (options_.warm_start()) now_.factors[gradient.parameter].remember(q);
    if (options_.use_error_feedback()) {
      // From what the ranks got, rounded to the bucket's dtype.
      now_.errors.keep(gradient.parameter, gradient.values.sub_(gradient.gradient));
    }
  }
  return exchange.buffer;
}

HookState PowerSgd::State::save(const ParametersByName& parameters) const {
  HookStateWriter writer(kPowerSgd, parameters);
  writer.add_options(numbers_of(options_, now_.steps));
  writer.add_count(kSteps, now_.steps);
  writer.add_generator(now_.generator);
  now_.errors.write(writer);
  // Without a warm start, the next step draws them anew.
  if (!options_.warm_start()) return writer.take();
  now_.factors.for_each([&](const c10::TensorImpl* parameter, const StartingFactor& factor) {
    if (factor.is_drawn()) factor.write(writer, writer.name_of(parameter));
  });
  return writer.take();
}

std::function<void()> PowerSgd::State::prepare(const HookState& state,
                                               const ParametersByName& parameters,
                                               bool has_errors) {
  HookStateReader reader(kPowerSgd, state);
  Progress next{reader.need_generator(), reader.need_count(kSteps), {}, {}};
  reader.need_options(numbers_of(options_, next.steps));
  if (options_.use_error_feedback()) next.errors = ErrorFeedback::read(reader, parameters);
  for (const auto& [name, parameter] : parameters) {
    if (!options_.warm_start() || parameter.dim() < 2 || parameter.numel() == 0) continue;
    const auto factor = StartingFactor::read(reader, name, parameter.numel() / parameter.size(0),
                                             rank_for(parameter, options_), parameter);
    const bool has_error = next.errors.of(parameter).defined();
    TORCH_CHECK(!has_error || factor.is_warm(), kPowerSgd, ": the state has an error of '", name,
                "', and no factor; it is not whole, or was saved with warm_start(false)");
    TORCH_CHECK(!factor.is_warm() || has_error || !has_errors || !options_.use_error_feedback(),
                kPowerSgd, ": the state has a factor of '", name,
                "', and no error; it is not whole, or was saved with use_error_feedback(false)");
    if (factor.is_drawn()) next.factors[parameter] = factor;
  }
  reader.finish();
  return [self = shared_from_this(), next = std::move(next)] {
    self->now_ = next;
    self->now_.generator = next.generator.clone();  // copies share it
  };
}

Future<at::Tensor> PowerSgd::State::run(ProcessGroup& group, const GradientBucketView& bucket) {
  check_dtype(kPowerSgd, bucket);
  const bool is_started = now_.steps >= options_.start_iteration();
  if (bucket.is_last()) ++now_.steps;
  if (!is_started) return all_reduce()(group, bucket);
  const auto exchange = begin(bucket);
  if (exchange->compressed.empty()) return all_reduce()(group, bucket);
  const auto average = [&group, exchange, name = name_of(bucket)](const char* what) {
    const auto scope = group.with(CallOptions().name(what + name));
    return group.all_reduce(exchange->sent, ReduceOp::Avg);
  };
  return average("P of ").then([self = shared_from_this(), exchange, average] {
    self->continue_with_qs(*exchange);
    return average("Q of ").then([self, exchange] { return self->end(*exchange); });
  });
}

PowerSgd::PowerSgd(const PowerSgdOptions& options) {
  check_options(kPowerSgd, options);
  state_ = std::make_shared<State>(options);
}

Future<at::Tensor> PowerSgd::operator()(ProcessGroup& group,
                                        const GradientBucketView& bucket) const {
  return state_->run(group, bucket);
}

std::uint64_t PowerSgd::steps() const noexcept {
  return state_->steps();
}

at::Tensor PowerSgd::error_of(const at::Tensor& parameter) const {
  const at::Tensor error = state_->error_of(parameter);
  return error.defined() ? error.clone() : error;
}

HookState PowerSgd::state(const ParametersByName& parameters) const {
  return state_->save(parameters);
}

void PowerSgd::load_state(const HookState& state, const ParametersByName& parameters) const {
  prepare_state(state, parameters)();
}

std::function<void()> PowerSgd::prepare_state(const HookState& state,
                                              const ParametersByName& parameters) const {
  return state_->prepare(state, parameters, /*has_errors=*/true);
}

std::function<void()> PowerSgd::adapt_state(const HookState& of_rank_0,
                                            const ParametersByName& parameters, int rank) const {
  return with_warning(kPowerSgd,
                      state_->prepare(without_errors(of_rank_0), parameters, /*has_errors=*/false),
                      of_rank_0, rank);
}

}  // namespace lockstep::hooks

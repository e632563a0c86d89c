// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
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

constexpr const char* kBatchedPowerSgd = "BatchedPowerSgd";
constexpr const char* kPlan = "plan";
constexpr const char* kPlacePrefix = "place.";  // of a parameter: its bucket, and its place in it

/// What is under way for one bucket.
struct MatrixExchange {
  GradientBucketView bucket;
  at::Tensor matrix;               // the gradients and their errors, filled up with zeros
  std::vector<at::Tensor> values;  // the gradients' places in it
  at::Tensor p;
  at::Tensor sent;  // what the all-reduce under way is about
};

std::int64_t side_for(std::int64_t elements) {
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
  [[nodiscard]] bool has(const at::Tensor& parameter) const {
    return std::any_of(parameters.begin(), parameters.end(), [&](const auto& weak) {
      return weak._unsafe_get_target() == parameter.unsafeGetTensorImpl();
    });
  }
  /// Whether the bucket's parameters still exist. Without them, it is no bucket's factor any more.
  [[nodiscard]] bool is_of_something() const {
    return start.is_drawn() && std::none_of(parameters.begin(), parameters.end(),
                                            [](const auto& weak) { return weak.expired(); });
  }
};

/// The parameters of buckets, by bucket and place.
using PlacesOfBuckets = std::map<std::size_t, std::map<std::int64_t, at::Tensor>>;

PlacesOfBuckets read_places(HookStateReader& reader, const ParametersByName& parameters) {
  PlacesOfBuckets buckets;
  for (const auto& [name, parameter] : parameters) {
    const at::Tensor place = reader.take(kPlacePrefix + name);
    if (!place.defined()) continue;
    TORCH_CHECK(place.scalar_type() == at::kLong && place.numel() == 2, kBatchedPowerSgd, ": '",
                kPlacePrefix, name, "' of the state is ", place.scalar_type(), " of shape ",
                place.sizes(), "; it must be two Longs");
    const at::Tensor numbers = place.flatten().cpu().contiguous();
    const auto* const number = numbers.const_data_ptr<std::int64_t>();
    const bool is_new =
        number[0] >= 0 && number[1] >= 0 &&
        buckets[static_cast<std::size_t>(number[0])].emplace(number[1], parameter).second;
    TORCH_CHECK(is_new, kBatchedPowerSgd, ": '", kPlacePrefix, name, "' of the state is place ",
                number[1], " of bucket ", number[0], ", which is none, or another parameter's");
  }
  for (const auto& [index, places] : buckets) {
    TORCH_CHECK(places.rbegin()->first + 1 == static_cast<std::int64_t>(places.size()),
                kBatchedPowerSgd, ": the state lacks a parameter of bucket ", index,
                "; are all parameters of the model given?");
  }
  return buckets;
}

}  // namespace

class BatchedPowerSgd::State : public std::enable_shared_from_this<BatchedPowerSgd::State> {
 public:
  explicit State(const PowerSgdOptions& options)
      : options_(options),
        now_{at::make_generator<at::CPUGeneratorImpl>(options.random_seed()), 0, 0, {}, {}} {}

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
    std::uint64_t plan = 0;
    std::map<std::size_t, BucketFactor> factors;
    ErrorFeedback errors;
  };

  [[nodiscard]] std::map<std::size_t, BucketFactor> read_factors(
      HookStateReader& reader, const ParametersByName& parameters) const;
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
  Progress now_;
};

StartingFactor& BatchedPowerSgd::State::factor_of(const GradientBucketView& bucket) {
  if (std::exchange(now_.plan, bucket.plan()) != bucket.plan()) now_.factors.clear();
  const auto known = now_.factors.find(bucket.index());
  if (known != now_.factors.end() && known->second.is_for(bucket)) return known->second.start;
  // A model that was wrapped anew counts its plans from 1. Its parameters may have been in other
  // buckets before, which do not come any more.
  std::erase_if(now_.factors, [&](const auto& entry) {
    return std::any_of(bucket.parameters().begin(), bucket.parameters().end(),
                       [&](const at::Tensor& parameter) { return entry.second.has(parameter); });
  });
  BucketFactor& factor = now_.factors[bucket.index()];
  factor = {};
  for (const at::Tensor& parameter : bucket.parameters()) {
    factor.parameters.emplace_back(parameter.getIntrusivePtr());
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
      now_.errors.add(bucket.parameters()[i], exchange->values[i]);
    }
  }
  const at::Tensor start =
      factor_of(bucket).next(exchange->matrix, rank_for(side), options_, now_.generator);
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
    now_.errors.keep(exchange.bucket.parameters()[i], exchange.values[i].sub_(gradient));
  }
  return exchange.bucket.buffer();
}

HookState BatchedPowerSgd::State::save(const ParametersByName& parameters) const {
  HookStateWriter writer(kBatchedPowerSgd, parameters);
  writer.add_options(numbers_of(options_, now_.steps));
  writer.add_count(kSteps, now_.steps);
  writer.add_count(kPlan, now_.plan);
  writer.add_generator(now_.generator);
  now_.errors.write(writer);
  if (!options_.warm_start()) return writer.take();
  for (const auto& [index, factor] : now_.factors) {
    if (!factor.is_of_something()) continue;
    factor.start.write(writer, std::to_string(index));
    std::int64_t place = 0;
    for (const WeakParameter& parameter : factor.parameters) {
      writer.add(kPlacePrefix + writer.name_of(parameter._unsafe_get_target()),
                 at::tensor({static_cast<std::int64_t>(index), place++}, at::kLong));
    }
  }
  return writer.take();
}

std::map<std::size_t, BucketFactor> BatchedPowerSgd::State::read_factors(
    HookStateReader& reader, const ParametersByName& parameters) const {
  std::map<std::size_t, BucketFactor> factors;
  for (const auto& [index, places] : read_places(reader, parameters)) {
    BucketFactor& factor = factors[index];
    std::int64_t elements = 0;
    for (const auto& [place, parameter] : places) {
      factor.parameters.emplace_back(parameter.getIntrusivePtr());
      elements += parameter.numel();
    }
    // The side is known when a bucket comes, which has zeros between its gradients.
    const std::int64_t side = StartingFactor::columns_in(reader, std::to_string(index));
    TORCH_CHECK(side >= side_for(elements), kBatchedPowerSgd,
                ": the state has no factor of bucket ", index, ", or one of ", side, " rows; its ",
                elements, " elements need ", side_for(elements), " at least");
    factor.start = StartingFactor::read(reader, std::to_string(index), side, rank_for(side),
                                        places.begin()->second);
  }
  return factors;
}

std::function<void()> BatchedPowerSgd::State::prepare(const HookState& state,
                                                      const ParametersByName& parameters,
                                                      bool has_errors) {
  HookStateReader reader(kBatchedPowerSgd, state);
  Progress next{
      reader.need_generator(), reader.need_count(kSteps), reader.need_count(kPlan), {}, {}};
  reader.need_options(numbers_of(options_, next.steps));
  if (options_.use_error_feedback()) next.errors = ErrorFeedback::read(reader, parameters);
  if (options_.warm_start()) next.factors = read_factors(reader, parameters);
  for (const auto& [name, parameter] : parameters) {
    const auto is_in = [&parameter = parameter](const auto& factor) {
      return factor.second.start.is_warm() && factor.second.has(parameter);
    };
    const bool is_warm = std::any_of(next.factors.begin(), next.factors.end(), is_in);
    TORCH_CHECK(!is_warm || !has_errors || !options_.use_error_feedback() ||
                    next.errors.of(parameter).defined(),
                kBatchedPowerSgd, ": the state has a factor of the bucket of '", name,
                "', and no error of it; it is not whole, or was saved with "
                "use_error_feedback(false)");
  }
  reader.finish();
  return [self = shared_from_this(), next = std::move(next)] {
    self->now_ = next;
    self->now_.generator = next.generator.clone();  // copies share it
  };
}

Future<at::Tensor> BatchedPowerSgd::State::run(ProcessGroup& group,
                                               const GradientBucketView& bucket) {
  check_dtype(kBatchedPowerSgd, bucket);
  const bool is_started = now_.steps >= options_.start_iteration();
  if (bucket.is_last()) ++now_.steps;
  const std::int64_t side = side_for(bucket.buffer().numel());
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
  check_options(kBatchedPowerSgd, options);
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

HookState BatchedPowerSgd::state(const ParametersByName& parameters) const {
  return state_->save(parameters);
}

void BatchedPowerSgd::load_state(const HookState& state, const ParametersByName& parameters) const {
  prepare_state(state, parameters)();
}

std::function<void()> BatchedPowerSgd::prepare_state(const HookState& state,
                                                     const ParametersByName& parameters) const {
  return state_->prepare(state, parameters, /*has_errors=*/true);
}

std::function<void()> BatchedPowerSgd::adapt_state(const HookState& of_rank_0,
                                                   const ParametersByName& parameters,
                                                   int rank) const {
  return with_warning(kBatchedPowerSgd,
                      state_->prepare(without_errors(of_rank_0), parameters, /*has_errors=*/false),
                      of_rank_0, rank);
}

}  // namespace lockstep::hooks

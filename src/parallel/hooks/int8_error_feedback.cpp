// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "parallel/hooks/bucket_layout.h"
#include "parallel/hooks/error_feedback.h"
#include "parallel/hooks/hook_state.h"

namespace lockstep::hooks {
namespace {

constexpr const char* kInt8 = "Int8ErrorFeedback";
constexpr std::int64_t kLargest = 127;
constexpr std::int64_t kScaleBytes = 4;  // of a float, behind the numbers of its chunk
constexpr std::int64_t kMaxChunkElements = std::int64_t{1} << 20;

std::int64_t divided_up(std::int64_t elements, std::int64_t parts) {
  return (elements + parts - 1) / parts;
}

// `packets`: the last dimension is a chunk's numbers and its scale.
at::Tensor numbers_in(const at::Tensor& packets) {
  return packets.narrow(-1, 0, packets.size(-1) - kScaleBytes);
}

at::Tensor scales_in(const at::Tensor& packets) {
  return packets.narrow(-1, packets.size(-1) - kScaleBytes, kScaleBytes).view(at::kFloat);
}

at::Tensor quantized(const at::Tensor& chunks) {
  auto sizes = chunks.sizes().vec();
  sizes.back() += kScaleBytes;
  const at::Tensor packets = at::empty(sizes, chunks.options().dtype(at::kChar));
  const at::Tensor scales = scales_in(packets);
  scales.copy_(chunks.abs().amax(-1, /*keepdim=*/true).div_(kLargest));
  // A chunk of zeros divides zero by zero, one that is not finite has a scale that is not: numbers
  // of no value, but defined ones. The scale says the rest.
  numbers_in(packets).copy_(chunks.div(scales.to(chunks.scalar_type()))
                                .round_()
                                .nan_to_num_(0, 0, 0)
                                .clamp_(-kLargest, kLargest));
  return packets;
}

at::Tensor dequantized(const at::Tensor& packets, at::ScalarType dtype) {
  return numbers_in(packets).to(dtype).mul_(scales_in(packets).to(dtype));
}

/// What is under way for one bucket.
struct ChunkExchange {
  GradientBucketView bucket;
  at::Tensor chunks;               // ranks x chunks x elements: the gradients and their errors
  std::vector<at::Tensor> values;  // the gradients' places in it
  at::Tensor sent;
  at::Tensor received;
};

}  // namespace

class Int8ErrorFeedback::State : public std::enable_shared_from_this<Int8ErrorFeedback::State> {
 public:
  explicit State(const Int8ErrorFeedbackOptions& options) : options_(options) {}

  Future<at::Tensor> run(ProcessGroup& group, const GradientBucketView& bucket);
  [[nodiscard]] at::Tensor error_of(const at::Tensor& parameter) const {
    return errors_.of(parameter);
  }
  [[nodiscard]] HookState save(const ParametersByName& parameters) const;
  std::function<void()> prepare(const HookState& state, const ParametersByName& parameters);

 private:
  /// The options on which the next step depends.
  [[nodiscard]] OptionNumbers numbers() const {
    return {{"chunk_elements", static_cast<double>(options_.chunk_elements())},
            {"use_error_feedback", options_.use_error_feedback() ? 1 : 0}};
  }
  std::shared_ptr<ChunkExchange> begin(const GradientBucketView& bucket, std::int64_t ranks);
  /// Averages the share of all ranks' gradients that this rank got, and rounds the averages.
  static void average(ChunkExchange& exchange, std::int64_t rank);
  at::Tensor end(ChunkExchange& exchange);

  Int8ErrorFeedbackOptions options_;
  ErrorFeedback errors_;
};

std::shared_ptr<ChunkExchange> Int8ErrorFeedback::State::begin(const GradientBucketView& bucket,
                                                               std::int64_t ranks) {
  const at::Tensor& buffer = bucket.buffer();
  const std::int64_t share = divided_up(divided_up(buffer.numel(), ranks), kScaleBytes) *
                             kScaleBytes;  // scales lie on multiples of their size
  const std::int64_t elements = std::min(options_.chunk_elements(), share);
  const std::int64_t chunks = divided_up(share, elements);
  const at::Tensor flat =
      at::zeros({ranks * chunks * elements}, buffer.options().dtype(computing_dtype(bucket)));
  flat.narrow(0, 0, buffer.numel()).copy_(buffer);
  const auto exchange = std::make_shared<ChunkExchange>(
      ChunkExchange{bucket, flat.view({ranks, chunks, elements}), views_in(flat, bucket), {}, {}});
  if (options_.use_error_feedback()) {
    for (std::size_t i = 0; i < exchange->values.size(); ++i) {
      errors_.add(bucket.parameters()[i], exchange->values[i]);
    }
  }
  exchange->sent = quantized(exchange->chunks);
  exchange->received = at::empty_like(exchange->sent);
  exchange->chunks.sub_(dequantized(exchange->sent, flat.scalar_type()));
  return exchange;
}

void Int8ErrorFeedback::State::average(ChunkExchange& exchange, std::int64_t rank) {
  const at::ScalarType dtype = exchange.chunks.scalar_type();
  const std::int64_t ranks = exchange.received.size(0);
  at::Tensor mean = dequantized(exchange.received[0], dtype);
  for (std::int64_t i = 1; i < ranks; ++i) mean.add_(dequantized(exchange.received[i], dtype));
  mean.div_(ranks);
  exchange.sent = quantized(mean);
  // The bucket's dtype may round the average once more. This rank's gradients are one of `ranks`
  // parts of it.
  const at::Tensor given =
      dequantized(exchange.sent, dtype).to(exchange.bucket.buffer().scalar_type());
  exchange.chunks[rank].add_(mean.sub_(given), ranks);
}

at::Tensor Int8ErrorFeedback::State::end(ChunkExchange& exchange) {
  const at::Tensor flat = dequantized(exchange.received, exchange.chunks.scalar_type()).flatten();
  const auto averages = views_in(flat, exchange.bucket);
  for (std::size_t i = 0; i < averages.size(); ++i) {
    // Not the zeros between the gradients: zero times infinity would stay there for ever.
    exchange.bucket.gradients()[i].copy_(averages[i]);
    if (options_.use_error_feedback()) {
      errors_.keep(exchange.bucket.parameters()[i], exchange.values[i]);
    }
  }
  return exchange.bucket.buffer();
}

HookState Int8ErrorFeedback::State::save(const ParametersByName& parameters) const {
  HookStateWriter writer(kInt8, parameters);
  writer.add_options(numbers());
  errors_.write(writer);
  return writer.take();
}

std::function<void()> Int8ErrorFeedback::State::prepare(const HookState& state,
                                                        const ParametersByName& parameters) {
  HookStateReader reader(kInt8, state);
  reader.need_options(numbers());
  ErrorFeedback errors;
  if (options_.use_error_feedback()) errors = ErrorFeedback::read(reader, parameters);
  reader.finish();
  return [self = shared_from_this(), errors = std::move(errors)] { self->errors_ = errors; };
}

Future<at::Tensor> Int8ErrorFeedback::State::run(ProcessGroup& group,
                                                 const GradientBucketView& bucket) {
  check_dtype(kInt8, bucket);
  const auto exchange = begin(bucket, group.size());
  return group.all_to_all(exchange->received, exchange->sent)
      .then([self = shared_from_this(), exchange, &group, name = name_of(bucket)] {
        average(*exchange, group.rank());
        const auto scope = group.with(CallOptions().name(name));
        return group.all_gather(exchange->received, exchange->sent).then([self, exchange] {
          return self->end(*exchange);
        });
      });
}

Int8ErrorFeedback::Int8ErrorFeedback(const Int8ErrorFeedbackOptions& options) {
  const std::int64_t elements = options.chunk_elements();
  TORCH_CHECK(elements >= 4 && elements <= kMaxChunkElements && elements % 4 == 0,
              "Int8ErrorFeedback: chunk_elements is ", elements,
              "; allowed are multiples of 4 from 4 to ", kMaxChunkElements);
  state_ = std::make_shared<State>(options);
}

Future<at::Tensor> Int8ErrorFeedback::operator()(ProcessGroup& group,
                                                 const GradientBucketView& bucket) const {
  return state_->run(group, bucket);
}

at::Tensor Int8ErrorFeedback::error_of(const at::Tensor& parameter) const {
  const at::Tensor error = state_->error_of(parameter);
  return error.defined() ? error.clone() : error;
}

HookState Int8ErrorFeedback::state(const ParametersByName& parameters) const {
  return state_->save(parameters);
}

void Int8ErrorFeedback::load_state(const HookState& state,
                                   const ParametersByName& parameters) const {
  prepare_state(state, parameters)();
}

std::function<void()> Int8ErrorFeedback::prepare_state(const HookState& state,
                                                       const ParametersByName& parameters) const {
  return state_->prepare(state, parameters);
}

std::function<void()> Int8ErrorFeedback::adapt_state(const HookState& of_rank_0,
                                                     const ParametersByName& parameters,
                                                     int rank) const {
  return with_warning(kInt8, state_->prepare(without_errors(of_rank_0), parameters), of_rank_0,
                      rank);
}

}  // namespace lockstep::hooks

// SPDX-License-Identifier: BSD-3-Clause
#include "tensor_parallel/vocab_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sub.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "tensor_parallel/collective_step.h"
#include "tensor_parallel/share.h"

namespace lockstep::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// So many logits of a CPU stay in its cache from one step of a computation to the next one.
constexpr std::int64_t kCachedLogits = 1 << 17;

// What ranks tell each other about a token, each relative to its own classes.
enum Figure : std::int64_t {
  Maximum,       // of its logits
  Exponentials,  // sum of exp(logit - maximum)
  Target,        // the target's logit, 0 where it is another rank's
  Logits,        // sum of logit - maximum; with label smoothing only
};

/// Calls `each` for some rows after another.
void for_rows(const at::Tensor& logits,
              const std::function<void(std::int64_t first, std::int64_t rows)>& each) {
  const auto rows = logits.size(0);
  const auto width = std::max<std::int64_t>(1, logits.size(1));
  const auto at_once = logits.is_cpu() ? std::max<std::int64_t>(1, kCachedLogits / width) : rows;
  for (std::int64_t first = 0; first < rows; first += at_once) {
    each(first, std::min(at_once, rows - first));
  }
}

/// What logits are compared with: their maximum. Where all of them are minus infinity, 0, since the
/// difference of infinities is no number.
at::Tensor reference_of(const at::Tensor& maximum) {
  return maximum.masked_fill(maximum.eq(-std::numeric_limits<double>::infinity()), 0);
}

/// The targets as this rank's classes.
struct OwnTargets {
  at::Tensor index;   // 0 where the target is another rank's
  at::Tensor is_own;  // and counts
  at::Tensor counts;  // whether the token does, on any rank
};

OwnTargets own_targets(const at::Tensor& targets, std::int64_t ignore_index, std::int64_t first,
                       std::int64_t classes) {
  OwnTargets own;
  own.counts = targets.ne(ignore_index);
  const at::Tensor index = targets - first;
  own.is_own = index.ge(0).logical_and(index.lt(classes)).logical_and(own.counts);
  own.index = index.masked_fill(own.is_own.logical_not(), 0);
  return own;
}

/// What a rank sends: its figures, and after them the number of its logits.
struct Message {
  Message(std::int64_t its_figures, std::int64_t its_tokens, const at::TensorOptions& options)
      : figures(its_figures),
        tokens(its_tokens),
        memory(at::empty({figures * tokens + 1}, options)) {}

  /// The figures of one message, or of one a row: {..., figures, tokens}.
  [[nodiscard]] at::Tensor figures_in(const at::Tensor& messages) const {
    return messages.narrow(-1, 0, figures * tokens).unflatten(-1, {figures, tokens});
  }
  [[nodiscard]] at::Tensor width_in(const at::Tensor& messages) const {
    return messages.select(-1, figures * tokens);
  }

  std::int64_t figures;
  std::int64_t tokens;
  at::Tensor memory;
};

/// Fills `exponentials` with exp(logit - maximum), and `figures` with this rank's.
void fill_figures(const at::Tensor& figures, const at::Tensor& logits, const OwnTargets& targets,
                  bool has_smoothing, const at::Tensor& exponentials) {
  for_rows(logits, [&](std::int64_t first, std::int64_t rows) {
    const at::Tensor some = logits.narrow(0, first, rows);
    const at::Tensor maximum = at::amax(some, 1);
    at::Tensor result = exponentials.narrow(0, first, rows);
    at::sub_out(result, some, reference_of(maximum).unsqueeze(1));
    if (has_smoothing) figures.select(0, Logits).narrow(0, first, rows).copy_(result.sum(1));
    result.exp_();
    figures.select(0, Maximum).narrow(0, first, rows).copy_(maximum);
    figures.select(0, Exponentials).narrow(0, first, rows).copy_(result.sum(1));
  });
  const at::Tensor found = logits.gather(1, targets.index.unsqueeze(1)).squeeze(1);
  figures.select(0, Target).copy_(found.masked_fill(targets.is_own.logical_not(), 0));
}

/// The messages of all ranks, {ranks, ...}, in the same order on all of them.
at::Tensor exchange(const Message& own, std::int64_t classes, ProcessGroup& group) {
  const auto scope =
      group.with(CallOptions().name(call_name("cross entropy of", {own.tokens, classes})));
  at::Tensor all = at::empty({group.size(), own.memory.size(0)}, own.memory.options());
  group.all_gather(all, own.memory).wait();
  return all;
}

/// How many classes each rank has: {ranks}. Made where it is used: a copy from the CPU would make
/// the program wait for a device, and could not be a part of a CUDA graph.
at::Tensor widths_of_ranks(std::int64_t classes, int ranks, const at::TensorOptions& options) {
  at::Tensor widths = at::full({ranks}, classes / ranks, options);
  widths.narrow(0, 0, classes % ranks).add_(1);
  return widths;
}

/// Ranks with other shares of the classes than this one believes would compare logits with targets
/// of other classes. Comes after a call, so that all ranks see it.
void check_widths(const at::Tensor& actual, const at::Tensor& expected, std::int64_t classes) {
  if (actual.is_cuda()) {
    return at::_assert_async(actual.eq(expected).all(),
                             "VocabParallelCrossEntropy: the ranks' logits are not the shares of "
                             "the classes; the option classes says how many there are");
  }
  if (!actual.is_cpu() || at::equal(actual, expected)) return;
  const auto text_of = [](const at::Tensor& widths) {
    std::string text;
    for (std::int64_t rank = 0; rank < widths.size(0); ++rank) {
      text += (rank > 0 ? ", " : "") + std::to_string(widths[rank].item<std::int64_t>());
    }
    return text;
  };
  TORCH_CHECK(false, "VocabParallelCrossEntropy: the ranks have ", text_of(actual),
              " logits a token, and should have ", text_of(expected), " of ", classes,
              " classes; the option classes says how many there are");
}

struct CrossEntropyState : torch::CustomClassHolder {
  CrossEntropyState(std::shared_ptr<ProcessGroup> its_group, const CrossEntropySettings& its)
      : group(std::move(its_group)), settings(its) {}
  std::shared_ptr<ProcessGroup> group;
  CrossEntropySettings settings;
};

/// The identity, which refuses to be differentiated.
struct NoSecondDerivative : torch::autograd::Function<NoSecondDerivative> {
  static at::Tensor forward(AutogradContext* /*context*/, const at::Tensor& gradient) {
    return gradient.clone();
  }
  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*gradients*/) {
    TORCH_CHECK(false, "VocabParallelCrossEntropy cannot be differentiated twice");
  }
};

struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits,
                            const at::Tensor& targets,
                            const c10::intrusive_ptr<CrossEntropyState>& state) {
    ProcessGroup& group = *state->group;
    const auto classes = state->settings.classes;
    const double smoothing = state->settings.label_smoothing;
    const OwnTargets own =
        own_targets(targets, state->settings.ignore_index,
                    share_of(classes, group.rank(), group.size()).first, logits.size(1));
    const at::Tensor exponentials = at::empty_like(logits);
    const Message message(std::int64_t{Logits} + (smoothing > 0 ? 1 : 0), logits.size(0),
                          logits.options());
    const at::Tensor figures = message.figures_in(message.memory);
    fill_figures(figures, logits, own, smoothing > 0, exponentials);
    message.width_in(message.memory).fill_(logits.size(1));
    const at::Tensor messages = exchange(message, classes, group);
    const at::Tensor widths = widths_of_ranks(classes, group.size(), logits.options());
    check_widths(message.width_in(messages), widths, classes);
    const at::Tensor all = message.figures_in(messages);
    const at::Tensor maxima = all.select(1, Maximum);
    const at::Tensor maximum = at::amax(maxima, 0);
    const at::Tensor sum = (all.select(1, Exponentials) * (maxima - maximum).exp()).sum(0);
    const at::Tensor normalizer = maximum + sum.log();
    at::Tensor losses = normalizer - all.select(1, Target).sum(0);
    if (smoothing > 0) {
      const at::Tensor logs =
          (all.select(1, Logits) + (reference_of(maxima) - normalizer) * widths.unsqueeze(1))
              .sum(0);
      losses = losses * (1 - smoothing) - logs * (smoothing / static_cast<double>(classes));
    }
    // What makes a probability of an exponential of this rank.
    const at::Tensor scale = (figures.select(0, Maximum) - maximum).exp() / sum;
    context->save_for_backward({exponentials, scale, own.index, own.is_own, own.counts});
    context->saved_data["state"] = c10::IValue::make_capsule(state);
    return losses.masked_fill(own.counts.logical_not(), 0);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto state = c10::static_intrusive_pointer_cast<CrossEntropyState>(
        context->saved_data["state"].toCapsule());
    const auto saved = context->get_saved_variables();
    at::Tensor result = differentiate(saved, gradients[0], *state);
    if (at::GradMode::is_enabled()) {
      result = NoSecondDerivative::apply(result.requires_grad_(true));
    }
    return {result, at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor differentiate(const variable_list& saved, const at::Tensor& gradient,
                                  const CrossEntropyState& state) {
    const at::NoGradGuard no_grad;
    const at::Tensor& exponentials = saved[0];
    const double smoothing = state.settings.label_smoothing;
    const auto classes = static_cast<double>(state.settings.classes);
    const at::Tensor factor = gradient.masked_fill(saved[4].logical_not(), 0);
    const at::Tensor scale = (saved[1] * factor).unsqueeze(1);
    const at::Tensor of_all = (factor * (smoothing / classes)).unsqueeze(1);
    // Nobody reads the exponentials any more unless the graph is retained.
    at::Tensor result = torch::autograd::get_current_graph_task_keep_graph()
                            ? at::empty_like(exponentials)
                            : exponentials;
    for_rows(result, [&](std::int64_t first, std::int64_t rows) {
      at::Tensor some = result.narrow(0, first, rows);
      at::mul_out(some, exponentials.narrow(0, first, rows), scale.narrow(0, first, rows));
      if (smoothing > 0) some.sub_(of_all.narrow(0, first, rows));
    });
    const at::Tensor of_target = (factor * (smoothing - 1)).masked_fill(saved[3].logical_not(), 0);
    return result.scatter_add_(1, saved[2].unsqueeze(1), of_target.unsqueeze(1));
  }
};

}  // namespace

at::Tensor vocab_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                               const CrossEntropySettings& settings,
                               const std::shared_ptr<ProcessGroup>& group) {
  return CrossEntropy::apply(logits, targets,
                             c10::make_intrusive<CrossEntropyState>(group, settings));
}

}  // namespace lockstep::nn

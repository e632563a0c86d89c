// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/sample_count.h"

#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <utility>

namespace lockstep {

void SampleCount::begin_forward(std::optional<std::int64_t> samples) {
  keep_hidden();
  std::erase_if(hidden_, [](const auto& forward) { return forward->counted_in != 0; });
  latest_ = std::make_shared<Forward>();
  latest_->samples = samples;
}

void SampleCount::end_forward() {
  if (latest_) latest_->has_returned = true;
}

void SampleCount::show(const at::Tensor& output) {
  // A leaf that needs a gradient has no node that could tell of a backward.
  if (latest_ && !(output.is_leaf() && output.requires_grad())) latest_->shows_outputs = true;
}

std::shared_ptr<SampleCount::Output> SampleCount::watch(const at::Tensor& output) {
  auto watched = std::make_shared<Output>();
  watched->forward = latest_ ? latest_ : std::make_shared<Forward>();
  watched->node = output.grad_fn().get();
  append(outputs_, watched);
  return watched;
}

// The list may be long, so items that are gone are removed only when it has no room left.
template <typename T>
void SampleCount::append(std::vector<std::weak_ptr<T>>& list, const std::shared_ptr<T>& item) {
  if (list.size() == list.capacity()) {
    std::erase_if(list, [](const auto& known) { return known.expired(); });
    if (2 * list.size() > list.capacity()) list.reserve(2 * list.capacity());
  }
  list.push_back(item);
}

void SampleCount::keep_hidden() {
  if (latest_ && is_hidden(*latest_)) hidden_.push_back(std::move(latest_));
}

bool SampleCount::has_hidden() const {
  const auto is_new = [](const auto& forward) { return forward->counted_in == 0; };
  return (latest_ && is_hidden(*latest_) && is_new(latest_)) ||
         std::any_of(hidden_.begin(), hidden_.end(), is_new);
}

void SampleCount::note_reached(Output& output) {
  output.reached_in = torch::autograd::get_current_graph_task_id();
}

void SampleCount::count() {
  const auto* const nodes = torch::autograd::get_current_graph_task_nodes_in_graph();
  const int graph = torch::autograd::get_current_graph_task_id();
  for (const auto& weak : outputs_) {
    const auto output = weak.lock();
    if (!output) continue;
    // The root of a graph is not among its nodes if it is the only one; but its hook comes first.
    const bool is_reached =
        output->reached_in == graph ||
        (nodes != nullptr && nodes->count(const_cast<torch::autograd::Node*>(output->node)) != 0);
    if (is_reached) add(output->forward);
  }
  keep_hidden();
  for (const auto& forward : hidden_) add(forward);
}

void SampleCount::add(const std::shared_ptr<Forward>& forward) {
  if (forward->counted_in == average_) return;
  forward->counted_in = average_;
  has_counted_any_ = true;
  if (forward->samples) {
    sum_ += *forward->samples;
  } else {
    is_known_ = false;
  }
  append(counted_, forward);
}

void SampleCount::say(std::int64_t samples) {
  said_ = samples;
  is_said_anew_ = true;
}

std::optional<std::int64_t> SampleCount::total() {
  is_said_anew_ = false;
  if (said_) {
    // The forwards get these samples, so that another backward of the same outputs counts as many.
    std::int64_t all = *said_;
    for (const auto& weak : counted_) {
      if (const auto forward = weak.lock()) forward->samples = std::exchange(all, 0);
    }
    return said_;
  }
  if (!has_counted_any_ || !is_known_) return std::nullopt;
  return sum_;
}

std::int64_t SampleCount::weight(GradientAveraging averaging) {
  if (averaging != GradientAveraging::Samples) return 1;
  const auto samples = total();
  TORCH_CHECK(samples,
              "DistributedDataParallel: averaging by samples, but how many this backward is of is "
              "not known: it goes through no output of forward, or forward's first argument is no "
              "tensor of samples; call set_samples before backward");
  return *samples;
}

void SampleCount::forget_said() {
  if (!is_said_anew_) said_.reset();
}

void SampleCount::clear() {
  said_.reset();
  forget_counted();
}

void SampleCount::forget_counted() {
  counted_.clear();
  has_counted_any_ = false;
  is_known_ = true;
  sum_ = 0;
  ++average_;
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "report.h"

#include "sampling.h"
#include "training.h"

#include <cstdio>

namespace example {
namespace {

constexpr int64_t kBytes = 256;  // the vocabulary where bytes are the tokens

double mean_over_ranks(double value, lockstep::ProcessGroup& group) {
  const auto sum = torch::tensor({value}, torch::kDouble);
  group.all_reduce(sum, lockstep::ReduceOp::Sum).wait();
  return sum.item<double>() / group.size();
}

}  // namespace

void Report::end_step(int64_t step, double loss) {
  seconds_ += std::chrono::duration<double>(Clock::now() - step_start_).count();
  tokens_ += group_.size() * options_.accumulate * options_.batch_size * options_.block;
  losses_ += loss;
  ++steps_;
  if (step % options_.report_every != 0 && step != options_.recipe.steps()) return;

  const auto training_loss = mean_over_ranks(losses_ / static_cast<double>(steps_), group_);
  losses_ = 0;
  steps_ = 0;
  validation_loss_ = example::validation_loss(net_, windows_, options_.bf16, device_, group_);
  if (group_.rank() == 0) print(step, training_loss);
}

double Report::validation_loss() {
  if (!validation_loss_) {
    validation_loss_ = example::validation_loss(net_, windows_, options_.bf16, device_, group_);
  }
  return *validation_loss_;
}

double Report::tokens_per_second() const {
  return seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0;
}

void Report::print(int64_t step, double training_loss) {
  std::printf("step %lld/%lld: loss %.3f, validation loss %.4f; %.0f tokens/s\n",
              static_cast<long long>(step), static_cast<long long>(options_.recipe.steps()),
              training_loss, *validation_loss_, tokens_per_second());
  // The tokens of another model are parts of words, whose table this program does not have.
  if (options_.sample > 0 && net_->options().vocabulary() == kBytes) print_sample(step);
  std::fflush(stdout);
}

void Report::print_sample(int64_t step) {
  const auto seed = options_.seed + static_cast<std::uint64_t>(step);
  const auto text =
      sample_text(net_, options_.prompt, SamplingOptions().length(options_.sample).seed(seed));
  std::printf("----\n%s\n----\n", text.c_str());
}

}  // namespace example

// SPDX-License-Identifier: BSD-3-Clause
#include "report.h"

#include "sampling.h"
#include "training.h"

#include <cstdio>
#include <memory>

namespace example {
namespace {

constexpr int64_t kBytes = 256;  // the vocabulary where bytes are the tokens

double mean_over_ranks(double value, lockstep::ProcessGroup& group) {
  const auto sum = torch::tensor({value}, torch::kDouble);
  group.all_reduce(sum, lockstep::ReduceOp::Sum).wait();
  return sum.item<double>() / group.size();
}

// The averages are the weights of the model while the result lives.
std::unique_ptr<lockstep::optim::AveragedModel::Swap> averages_of(
    lockstep::optim::AveragedModel* average) {
  using Swap = lockstep::optim::AveragedModel::Swap;
  return average ? std::unique_ptr<Swap>(new Swap(average->swap())) : nullptr;
}

}  // namespace

Report::Report(const Options& options, Gpt& net, lockstep::optim::AveragedModel* average,
               Loader& windows, c10::Device device, lockstep::ProcessGroup& group, int64_t step)
    : options_(options),
      net_(net),
      average_(average),
      windows_(windows),
      device_(device),
      group_(group) {
  if (group.rank() != 0) return;
  if (!options.tensorboard.empty()) {
    // Points of steps that are done again are not shown twice.
    lockstep::training::TensorBoardOptions board;
    if (step > 0) board.resume_at(step + 1);
    board_.emplace(options.tensorboard, board);
  }
  if (!options.run_log.empty()) {
    log_.emplace(std::make_shared<lockstep::training::BackgroundWriter>(), options.run_log);
  }
}

void Report::end_step(int64_t step, double loss) {
  seconds_ += std::chrono::duration<double>(Clock::now() - step_start_).count();
  tokens_ += group_.size() * options_.accumulate * options_.batch_size * options_.block;
  losses_ += loss;
  ++steps_;
  if (step % options_.report_every != 0 && step != options_.recipe.steps()) return;

  const auto training_loss = mean_over_ranks(losses_ / static_cast<double>(steps_), group_);
  losses_ = 0;
  steps_ = 0;
  measure();
  if (group_.rank() == 0) print(step, training_loss);
}

double Report::validation_loss() {
  if (!validation_loss_) measure();
  return *validation_loss_;
}

double Report::tokens_per_second() const {
  return seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0;
}

void Report::save(const std::string& path) {
  const auto averages = averages_of(average_);
  lockstep::training::save_state(net_, path);
}

void Report::measure() {
  const auto averages = averages_of(average_);
  validation_loss_ = example::validation_loss(net_, windows_, options_.bf16, device_, group_);
}

void Report::print(int64_t step, double training_loss) {
  std::printf("step %lld/%lld: loss %.3f, validation loss %.4f; %.0f tokens/s\n",
              static_cast<long long>(step), static_cast<long long>(options_.recipe.steps()),
              training_loss, *validation_loss_, tokens_per_second());
  const auto text = sample(step);
  if (!text.empty()) std::printf("----\n%s\n----\n", text.c_str());
  std::fflush(stdout);
  if (board_) {
    board_->scalar("loss/train", training_loss, step);
    board_->scalar("loss/validation", *validation_loss_, step);
    board_->scalar("tokens_per_second", tokens_per_second(), step);
    if (!text.empty()) board_->text("sample", text, step);
  }
  if (log_) {
    log_->write(step, {{"train/loss", training_loss},
                       {"validation/loss", *validation_loss_},
                       {"tokens_per_second", tokens_per_second()}});
  }
}

std::string Report::sample(int64_t step) {
  // The tokens of another model are parts of words, whose table this program does not have.
  if (options_.sample == 0 || net_->options().vocabulary() != kBytes) return "";
  const auto averages = averages_of(average_);
  const auto seed = options_.seed + static_cast<std::uint64_t>(step);
  return sample_text(net_, options_.prompt, SamplingOptions().length(options_.sample).seed(seed));
}

}  // namespace example

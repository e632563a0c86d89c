// SPDX-License-Identifier: BSD-3-Clause
#include "text.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>

namespace example {
namespace {

using lockstep::data::DataLoaderOptions;
using lockstep::data::DistributedSampler;
using lockstep::data::DistributedSamplerOptions;
using lockstep::data::Remainder;
using lockstep::data::TokenFile;
using lockstep::data::TokenFileOptions;

std::string file_of(const Options& options, const char* name) {
  return (std::filesystem::path(options.data) / name).string();
}

}  // namespace

Loader make_training_loader(const Options& options, int64_t vocabulary,
                            const lockstep::ProcessGroup& group) {
  const TokenFile text(file_of(options, "train.bin"),
                       TokenFileOptions().block(options.block).vocabulary(vocabulary));
  const auto order = DistributedSamplerOptions().shuffle(true).seed(options.seed);
  // Only full batches, so that all steps see as many tokens.
  Loader loader(
      text,
      DistributedSampler(text.size(), group.size(), group.rank(),
                         DistributedSamplerOptions(order).remainder(Remainder::Drop)),
      DataLoaderOptions().batch_size(options.batch_size).workers(options.workers).drop_last(true));
  TORCH_CHECK_VALUE(loader.size() > 0, file_of(options, "train.bin"), ": ", text.size(),
                    " windows of ", options.block, " tokens do not fill a batch of ",
                    options.batch_size, " on each of ", group.size(), " ranks");
  return loader;
}

Loader make_validation_loader(const Options& options, int64_t vocabulary,
                              const lockstep::ProcessGroup& group) {
  const auto path = file_of(options, "val.bin");
  const auto settings = TokenFileOptions().block(options.block).vocabulary(vocabulary);
  const auto tokens = static_cast<int64_t>(TokenFile(path, settings).tokens());
  const auto stride = std::max(options.block, (tokens - 1) / options.validation_windows);
  const TokenFile text(path, TokenFileOptions(settings).stride(stride));
  return Loader(
      text,
      DistributedSampler(text.size(), group.size(), group.rank(),
                         DistributedSamplerOptions().shuffle(false).remainder(Remainder::Exact)),
      DataLoaderOptions().batch_size(options.batch_size));
}

Batch& BatchStream::next() {
  if (!at_) {
    begin_pass();
  } else {
    ++*at_;
  }
  while (*at_ == loader_.end()) {  // a loader that was loaded may have nothing left
    ++epoch_;
    begin_pass();
  }
  return **at_;
}

void BatchStream::begin_pass() {
  if (!std::exchange(is_resumed_, false)) loader_.set_epoch(epoch_);
  at_.emplace(loader_.begin());
}

}  // namespace example

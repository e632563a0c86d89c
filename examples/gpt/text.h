// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "options.h"

#include <lockstep/lockstep.h>

#include <cstdint>
#include <optional>

namespace example {

using Loader = lockstep::data::DataLoader<lockstep::data::TokenFile>;
using Batch = Loader::Batch;

/// This rank's share of the windows of the training text, in another order in each epoch.
/// Throws: `c10::Error` where the file is bad, or too short for a batch on each rank.
[[nodiscard]] Loader make_training_loader(const Options& options, int64_t vocabulary,
                                          const lockstep::ProcessGroup& group);

/// This rank's share of the windows that measure: some, evenly spread over the validation text.
[[nodiscard]] Loader make_validation_loader(const Options& options, int64_t vocabulary,
                                            const lockstep::ProcessGroup& group);

/// Batches without an end, epoch after epoch.
///
/// Owns: nothing; the loader and the number of the epoch outlive it.
class BatchStream {
 public:
  /// `is_resumed`: the loader was loaded, and goes on in the middle of its epoch.
  BatchStream(Loader& loader, int64_t& epoch, bool is_resumed)
      : loader_(loader), epoch_(epoch), is_resumed_(is_resumed) {}

  /// The next batch. The one before is gone then.
  [[nodiscard]] Batch& next();

 private:
  void begin_pass();

  Loader& loader_;
  int64_t& epoch_;
  bool is_resumed_;
  std::optional<Loader::Iterator> at_;
};

}  // namespace example

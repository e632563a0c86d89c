// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/background_writer.h>

#include <memory>

#include "native/posix/file_system.h"
#include "training/background/writer_core.h"

namespace lockstep::training {

/// What sinks and tests see of a writer.
class WriterAccess {
 public:
  [[nodiscard]] static std::unique_ptr<BackgroundWriter> make(
      const BackgroundWriterOptions& options, native::FileSystem& files);
  /// Nothing in a fork of the process that has made the writer.
  [[nodiscard]] static WriterCore* core_of(const BackgroundWriter& writer);
};

}  // namespace lockstep::training

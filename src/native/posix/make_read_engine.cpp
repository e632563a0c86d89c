// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/make_read_engine.h"

#include "native/posix/read_pool.h"
#include "native/posix/read_ring.h"

namespace lockstep::native {

std::unique_ptr<ReadEngine> make_read_engine(const ReadEngineOptions& options, FileSystem& files) {
  if (options.prefers_ring) {
    if (auto ring = ReadRing::try_make(options.depth)) return ring;
  }
  return std::make_unique<ReadPool>(options.depth, options.threads, files);
}

}  // namespace lockstep::native

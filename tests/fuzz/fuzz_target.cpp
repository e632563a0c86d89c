// SPDX-License-Identifier: BSD-3-Clause
#include "fuzz/fuzz_target.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <utility>

namespace lockstep::fuzz {

std::vector<FuzzTarget> fuzz_targets() {
  auto targets = reader_targets();
  for (auto more : {image_targets(), pipeline_targets(), training_targets()}) {
    targets.insert(targets.end(), std::make_move_iterator(more.begin()),
                   std::make_move_iterator(more.end()));
  }
  return targets;
}

bool is_accepted(const FuzzTarget& target, const Bytes& input) {
  try {
    target.run(input);
    return true;
  } catch (const c10::Error&) {
    return false;
  } catch (const Refused&) {
    return false;
  }
}

std::string as_file(const Bytes& input) {
  static const int file = ::memfd_create("fuzz", MFD_CLOEXEC);
  const auto written = ::pwrite(file, input.data(), input.size(), 0);
  if (file < 0 || written != static_cast<ssize_t>(input.size()) ||
      ::ftruncate(file, static_cast<off_t>(input.size())) != 0) {
    std::perror("fuzz: no file for the input");
    std::exit(2);
  }
  return "/proc/self/fd/" + std::to_string(file);
}

}  // namespace lockstep::fuzz

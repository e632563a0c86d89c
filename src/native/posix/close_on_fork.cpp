// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/close_on_fork.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace lockstep::native {
namespace {

class Descriptors {
 public:
  /// Never destroyed: a fork may come while the process ends.
  static Descriptors& all() {
    static auto* const descriptors = new Descriptors;
    return *descriptors;
  }

  void add(int descriptor) {
    const std::lock_guard lock(mutex_);
    numbers_.push_back(descriptor);
  }
  void remove(int descriptor) {
    const std::lock_guard lock(mutex_);
    numbers_.erase(std::find(numbers_.begin(), numbers_.end(), descriptor));
  }

 private:
  Descriptors() {
    // No other thread changes the list during a fork.
    ::pthread_atfork([] { all().mutex_.lock(); }, [] { all().mutex_.unlock(); },
                     [] {
                       all().replace();
                       all().mutex_.unlock();
                     });
  }

  /// In the child, where only such functions may be called as a handler of a signal may call.
  void replace() {
    if (numbers_.empty()) return;
    const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0) return;
    for (const int number : numbers_) ::dup3(nothing, number, O_CLOEXEC);
    ::close(nothing);
  }

  std::mutex mutex_;
  std::vector<int> numbers_;
};

}  // namespace

CloseOnFork::CloseOnFork(int descriptor) : descriptor_(descriptor) {
  Descriptors::all().add(descriptor);
}

CloseOnFork::~CloseOnFork() {
  Descriptors::all().remove(descriptor_);
}

}  // namespace lockstep::native

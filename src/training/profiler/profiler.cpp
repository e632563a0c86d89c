// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/profiler.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "native/posix/atomic_file.h"
#include "native/posix/owning_process.h"
#include "native/posix/scratch_folder.h"
#include "training/profiler/kineto_recording.h"
#include "training/profiler/process_claim.h"
#include "training/profiler/request_file.h"
#include "training/profiler/trace_file.h"

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;

bool records(ProfilerAction action) {
  return action == ProfilerAction::Record || action == ProfilerAction::RecordAndSave;
}

std::string prefix_of(int rank) {
  return "rank" + std::to_string(rank) + ".";
}

/// Empty where there is no such file.
std::string text_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// The schedule of an answer to a request, counted from its first step.
ProfilerOptions answer_of(const ProfilerOptions& options) {
  return ProfilerOptions(options).wait(0).skip_first(0).repeat(1).only_on_request(false);
}

}  // namespace

class Profiler::Impl {
 public:
  Impl(const std::shared_ptr<ProcessGroup>& group, fs::path folder, const ProfilerOptions& options)
      : options_(options),
        answer_(answer_of(options)),
        folder_(std::move(folder)),
        recording_(options.shapes(), options.memory()),
        request_(folder_ / "profile.now") {
    TORCH_CHECK(group != nullptr, "Profiler: the process group is null");
    const ProfilerAction first = scheduled_action(options_, 0);  // checks options, too
    TORCH_CHECK(claim_.has_it(),
                "Profiler: this process has a lockstep::training::Profiler already; there can be "
                "one at a time, also where ranks are threads of a process");
    about_.backend = to_string(group->backend());
    about_.rank = group->rank();
    about_.world_size = group->size();
    about_.process = ::getpid();
    try_folder();
    enter(first);
  }

  ~Impl() {
    const bool is_here = std::this_thread::get_id() == thread_;
    if (!owner_.is_current() || !is_here) recording_.leave();
    if (!owner_.is_current()) return;
    try {
      TORCH_CHECK(is_here || action_ == ProfilerAction::None,
                  "destroyed in another thread than the one that made it, in which LibTorch "
                  "goes on recording");
      if (is_here) stop();
    } catch (const c10::Error& error) {
      log(error.what_without_backtrace());
    } catch (const std::exception& error) {
      log(error.what());
    }
  }

  void step() {
    if (has_stopped_ || !owner_.is_current()) return;
    check_thread("step");
    ++step_;
    const ProfilerAction next = planned();
    if (next == ProfilerAction::None && action_ == ProfilerAction::None) return;
    leave(next);
    enter(next);
  }

  void stop() {
    if (has_stopped_ || !owner_.is_current()) return;
    check_thread("stop");
    has_stopped_ = true;
    leave(ProfilerAction::None);
  }

  void request() noexcept { requested_.store(true, std::memory_order_relaxed); }

  void add(TraceSpan span) {
    TORCH_CHECK(span.begin <= span.end, "Profiler: span '", span.name, "' ends ",
                std::chrono::duration<double>(span.begin - span.end).count(),
                " s before it begins");
    if (!is_recording() || span.end < recording_.started_at()) return;
    about_.spans.push_back(std::move(span));
  }

  [[nodiscard]] bool is_recording() const noexcept { return records(action_); }
  [[nodiscard]] std::int64_t current_step() const noexcept { return step_; }
  [[nodiscard]] const std::optional<fs::path>& last_trace() const noexcept { return last_trace_; }

 private:
  void check_thread(const char* call) const {
    TORCH_CHECK(std::this_thread::get_id() == thread_, "Profiler: ", call,
                " in another thread than the one that made the profiler, whose operators it "
                "records");
  }

  void log(const char* text) const {
    std::string line = prefix_of(about_.rank) + " ";
    line += text;
    logging::error(line);
  }

  void try_folder() const {
    try {
      fs::create_directories(folder_);
      const native::ScratchFolder scratch(folder_.string(), "." + prefix_of(about_.rank));
    } catch (const std::system_error& error) {
      TORCH_CHECK(false, "Profiler: traces cannot be written to '", folder_.string(),
                  "': ", error.what());
    }
  }

  /// What this step is to be.
  ProfilerAction planned() {
    const bool was_touched = request_.look();
    const bool was_requested = requested_.load(std::memory_order_relaxed) &&
                               requested_.exchange(false, std::memory_order_relaxed);
    if (answered_) {
      const auto action = scheduled_action(answer_, step_ - *answered_);
      if (action != ProfilerAction::None) return action;
      answered_.reset();
    }
    const auto scheduled = scheduled_action(options_, step_);
    if (scheduled != ProfilerAction::None || !(was_touched || was_requested)) return scheduled;
    answered_ = step_;
    return scheduled_action(answer_, 0);
  }

  /// The step has ended. Whatever is thrown, nothing is recorded then.
  void leave(ProfilerAction next) {
    recording_.end_step();
    const ProfilerAction ended = std::exchange(action_, ProfilerAction::None);
    if (ended == ProfilerAction::RecordAndSave || (records(ended) && !records(next))) {
      save();
    } else if (next == ProfilerAction::None) {
      recording_.cancel();
    }
  }

  void enter(ProfilerAction next) {
    if (next == ProfilerAction::Warmup) recording_.prepare();
    if (records(next)) {
      if (!recording_.is_recording()) {
        recording_.start();
        about_.time_of_day = recording_.time_of_day();
        about_.spans.clear();
        first_step_ = step_;
      }
      recording_.begin_step(step_);
    }
    action_ = next;
  }

  [[nodiscard]] std::string steps_text() const {
    const std::int64_t last = has_stopped_ ? step_ : step_ - 1;
    return "steps " + std::to_string(first_step_) + " to " + std::to_string(last);
  }

  void save() {
    try {
      const native::ScratchFolder scratch(folder_.string(), "." + prefix_of(about_.rank));
      save_by(scratch.path() + "/trace.json");
    } catch (const std::system_error& error) {
      recording_.cancel();
      TORCH_CHECK(false, "Profiler: the trace of ", steps_text(), " cannot be written to '",
                  folder_.string(), "': ", error.what());
    }
  }

  void save_by(const std::string& raw) {
    using Result = KinetoRecording::Result;
    const Result result = recording_.stop(raw);
    // A step that has only begun need not have any.
    if (result == Result::NoOperators && first_step_ == step_) return;
    TORCH_CHECK(result != Result::NoOperators, "Profiler: no operator ran during ", steps_text(),
                " in the thread that calls step(); it records this thread and those of autograd");
    TORCH_CHECK(result != Result::Nothing, "Profiler: LibTorch recorded nothing during ",
                steps_text(), "; it was probably built without Kineto");
    const std::string trace = text_of_file(raw);
    TORCH_CHECK(!trace.empty(), "Profiler: LibTorch wrote no trace of ", steps_text(), " to '",
                folder_.string(), "'; it was built without Kineto, or the disk is full");
    const fs::path path =
        folder_ / (prefix_of(about_.rank) + "step" + std::to_string(first_step_) + ".json");
    about_.name = path.string();
    const std::string whole = with_additions(trace, about_);
    native::write_atomically(path.string(), whole, native::FileSystem::of_machine(),
                             native::AtomicFile::Survives::Process);
    last_trace_ = path;
  }

  native::OwningProcess owner_;
  const std::thread::id thread_ = std::this_thread::get_id();
  const ProfilerOptions options_;
  const ProfilerOptions answer_;
  const fs::path folder_;
  const ProcessClaim claim_;
  TraceAdditions about_;
  KinetoRecording recording_;
  RequestFile request_;
  std::atomic<bool> requested_{false};
  static_assert(std::atomic<bool>::is_always_lock_free, "a handler of a signal sets it");

  std::int64_t step_ = 0;
  std::int64_t first_step_ = 0;                   // of the recording
  std::optional<std::int64_t> answered_;          // the first step of the answer under way
  ProfilerAction action_ = ProfilerAction::None;  // of this step
  bool has_stopped_ = false;
  std::optional<fs::path> last_trace_;
};

Profiler::Profiler(const std::shared_ptr<ProcessGroup>& group, const fs::path& folder,
                   const ProfilerOptions& options)
    : impl_(std::make_unique<Impl>(group, folder, options)) {}

Profiler::~Profiler() = default;

void Profiler::step() {
  impl_->step();
}

void Profiler::stop() {
  impl_->stop();
}

void Profiler::request() noexcept {
  impl_->request();
}

bool Profiler::is_recording() const noexcept {
  return impl_->is_recording();
}

std::int64_t Profiler::current_step() const noexcept {
  return impl_->current_step();
}

const std::optional<fs::path>& Profiler::last_trace() const noexcept {
  return impl_->last_trace();
}

void Profiler::add(TraceSpan span) {
  impl_->add(std::move(span));
}

void Profiler::add(const DistributedDataParallelStatistics& statistics, const std::string& model) {
  if (!is_recording()) return;
  for (TraceSpan& span : spans_of(statistics, model)) impl_->add(std::move(span));
}

}  // namespace lockstep::training

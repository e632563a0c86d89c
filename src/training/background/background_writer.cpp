// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/safetensors.h>
#include <pthread.h>
#include <signal.h>

#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "native/posix/owning_process.h"
#include "training/background/writer_access.h"

namespace lockstep::training {
namespace {

// The thread says within its own limits what it could not write; a disk that does not answer keeps
// it longer.
constexpr std::chrono::seconds kMargin{5};

/// Starts it with all signals blocked: they are the program's.
std::thread start(const std::shared_ptr<WriterCore>& core) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  int error = 0;
  try {
    thread = std::thread([core] { core->run(); });
    ::pthread_setname_np(thread.native_handle(), "lockstep-writer");
  } catch (const std::system_error& failure) {
    error = failure.code().value();
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  TORCH_CHECK(error == 0,
              "BackgroundWriter: no thread can be had: ", std::generic_category().message(error));
  return thread;
}

std::future<void> in_fork() {
  std::promise<void> promise;
  promise.set_exception(std::make_exception_ptr(c10::Error(
      {__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)},
      "this BackgroundWriter is a copy in a fork of the process, and writes nothing; make another "
      "one there")));
  return promise.get_future();
}

}  // namespace

class BackgroundWriter::Impl {
 public:
  Impl(const BackgroundWriterOptions& options, native::FileSystem& files)
      : core_(std::make_shared<WriterCore>(options, files)), thread_(start(core_)) {}

  ~Impl() {
    if (!owner_.is_current()) {
      // The thread is not here, and its locks may be held for ever.
      native::leave_alone(std::move(thread_));
      native::leave_alone(std::move(core_));
      return;
    }
    core_->close();
    if (core_->wait_for_end(Deadline::after(core_->options().close_timeout() + kMargin))) {
      thread_.join();
      return;
    }
    logging::write_to_stderr(
        logging::Level::Error,
        "BackgroundWriter: its thread hangs in the system, and lines may be missing; does the "
        "filesystem answer?");
    native::leave_alone(std::move(thread_));
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[nodiscard]] WriterCore* core() const { return owner_.is_current() ? core_.get() : nullptr; }

 private:
  native::OwningProcess owner_;
  std::shared_ptr<WriterCore> core_;
  std::thread thread_;
};

std::unique_ptr<BackgroundWriter> WriterAccess::make(const BackgroundWriterOptions& options,
                                                     native::FileSystem& files) {
  return std::unique_ptr<BackgroundWriter>(
      new BackgroundWriter(std::make_unique<BackgroundWriter::Impl>(options, files)));
}

WriterCore* WriterAccess::core_of(const BackgroundWriter& writer) {
  return writer.impl_->core();
}

BackgroundWriter::BackgroundWriter(const BackgroundWriterOptions& options)
    : impl_(std::make_unique<Impl>(options, native::FileSystem::of_machine())) {}

BackgroundWriter::BackgroundWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

BackgroundWriter::~BackgroundWriter() = default;

bool BackgroundWriter::append(const std::filesystem::path& path, std::string_view line) {
  WriterCore* core = impl_->core();
  if (core == nullptr) return false;
  return core->push(core->channel_of(path.native()), logging::Level::Info, line, true);
}

std::future<void> BackgroundWriter::write_file(const std::filesystem::path& path,
                                               std::string text) {
  WriterCore* core = impl_->core();
  if (core == nullptr) return in_fork();
  std::unique_ptr<FileJob> job;
  try {
    job = std::make_unique<TextJob>(absolute_name(path), std::move(text));
  } catch (const c10::Error& error) {
    return core->failed(error.what_without_backtrace());
  }
  return core->add(std::move(job));
}

std::future<void> BackgroundWriter::save_async(const std::map<std::string, at::Tensor>& tensors,
                                               const std::filesystem::path& path,
                                               const std::map<std::string, std::string>& metadata) {
  WriterCore* core = impl_->core();
  if (core == nullptr) return in_fork();
  std::unique_ptr<FileJob> job;
  std::string name = path.string();
  try {
    name = absolute_name(path);
    at::Tensor memory;
    const auto copies = core->memories()->copy(tensors, memory);
    auto plan = plan_file(copies, metadata, SaveSafetensorsOptions().alignment());
    job = std::make_unique<TensorJob>(name, std::move(plan), std::move(memory), core->memories());
  } catch (const c10::Error& error) {
    return core->failed(name + " was not written: " + error.what_without_backtrace());
  } catch (const std::exception& error) {
    return core->failed(name + " was not written: " + error.what());
  }
  return core->add(std::move(job));
}

bool BackgroundWriter::flush(std::chrono::milliseconds timeout) {
  WriterCore* core = impl_->core();
  return core == nullptr || core->flush(Deadline::after(timeout));
}

BackgroundWriterStatistics BackgroundWriter::statistics() const {
  const WriterCore* core = impl_->core();
  return core == nullptr ? BackgroundWriterStatistics() : core->statistics();
}

}  // namespace lockstep::training

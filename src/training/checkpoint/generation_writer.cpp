// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/generation_writer.h"

#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "concurrency/deadline.h"
#include "concurrency/polling.h"
#include "files/bounded_file.h"
#include "files/digest.h"
#include "native/posix/atomic_file.h"
#include "training/checkpoint/agreement.h"
#include "training/checkpoint/file_check.h"
#include "training/safetensors/file_writer.h"
#include "training/safetensors/header.h"

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;

// A page: whoever maps the file gets aligned tensors.
constexpr std::int64_t kFileAlignment = 4096;
constexpr std::chrono::milliseconds kLongestPause{50};

std::string done_file(std::int64_t rank) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "rank-%05lld.done", static_cast<long long>(rank + 1));
  return name.data();
}

std::optional<CheckpointRecord> read_record(const fs::path& path, native::FileSystem& files) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  const files::BoundedFile file(path.string(), files);
  // On NFS, the name may be there before the bytes are.
  return CheckpointRecord::from_line(file.text(0, file.size(), "the record"));
}

}  // namespace

CheckpointRecord GenerationWriter::record() const {
  CheckpointRecord record;
  record.run = job_.run;
  record.generation = job_.generation;
  record.step = job_.step;
  record.world_size = job_.world_size;
  record.metric = job_.metric;
  return record;
}

std::uint64_t GenerationWriter::write_files() {
  try {
    return write_all_files();
  } catch (const std::exception&) {
    // A full disk needs room for what is told to the others.
    for (const auto& [name, file] : job_.snapshot.files) remove(name);
    for (const auto& [name, text] : job_.snapshot.indexes) remove(name);
    // That a file has no folder any more is not what went wrong.
    const bool has_ended = has_lost_folder() || is_given_up();
    remove_if_given_up();
    if (has_ended) return 0;
    throw;
  }
}

void GenerationWriter::remove(const std::string& name) const {
  folder_.files().remove((folder() / name).string());
}

std::uint64_t GenerationWriter::write_all_files() {
  const Deadline deadline = Deadline::after(job_.timeout);
  if (job_.snapshot.copies) job_.snapshot.copies->wait(deadline);
  if (job_.snapshot.deferred) job_.snapshot.deferred->copies.wait(deadline);
  folder_.make_unfinished(job_.generation, job_.run);
  folder_number_ = number_of_folder();
  CheckpointRecord done = record();
  done.plan = job_.snapshot.plan;
  // All of them are written before the first is waited for: the disk is busy meanwhile, and has to
  // note down the names once.
  std::vector<native::NewFile> written;
  for (const auto& [name, file] : job_.snapshot.files) written.push_back(write(name, file, done));
  for (const auto& [name, text] : job_.snapshot.indexes) written.push_back(write(name, text, done));
  if (job_.is_verified) verify(done);  // while the disk writes
  for (auto& file : written) file.sync();
  native::sync_folder(folder().string(), folder_.files());
  leave(done);
  remove_if_given_up();
  std::uint64_t bytes = 0;
  for (const auto& [name, digest] : done.files) bytes += digest.bytes;
  return bytes;
}

native::NewFile GenerationWriter::write(const std::string& name, const SnapshotFile& file,
                                        CheckpointRecord& done) {
  auto metadata = file.texts;
  metadata.emplace("format", "pt");
  const PlannedFile plan = plan_file(file.tensors, metadata, kFileAlignment);
  TensorSource copies;
  TensorSource& source = job_.snapshot.deferred ? job_.snapshot.deferred->tensors : copies;
  native::NewFile target((folder() / name).string(), folder_.files());
  target.reserve(plan.bytes);
  done.files[name] = {plan.bytes, write_pieces(plan, source, [&](auto offset, auto bytes) {
                        target.write(offset, bytes);
                      })};
  return target;
}

native::NewFile GenerationWriter::write(const std::string& name, const std::string& text,
                                        CheckpointRecord& done) {
  const auto bytes = std::as_bytes(std::span(text));
  files::Digest digest;
  digest.add(bytes);
  done.files[name] = {text.size(), digest.text()};
  native::NewFile target((folder() / name).string(), folder_.files());
  target.write(0, bytes);
  return target;
}

void GenerationWriter::leave(const CheckpointRecord& done) const {
  native::write_atomically((folder() / done_file(job_.rank)).string(), done.to_line(),
                           folder_.files(), native::AtomicFile::Survives::Process);
}

void GenerationWriter::verify(const CheckpointRecord& done) const {
  for (const auto& [name, digest] : done.files) {
    check_digest(folder() / name, digest, folder_.files());
  }
}

void GenerationWriter::report(const std::string& failure) const noexcept {
  if (has_lost_folder()) return;  // nobody asks any more
  const std::string untold = failure_of([&] {
    CheckpointRecord failed = record();
    failed.failure = failure;
    if (job_.rank == 0) {
      folder_.remove(folder());
      folder_.append(failed);
      // Another rank may have made it again. From now on, such a rank sees the line.
      folder_.remove(folder());
    } else {
      folder_.make_unfinished(job_.generation, job_.run);
      leave(failed);
    }
  });
  remove_if_given_up();
  if (untold.empty() || has_lost_folder()) return;
  logging::warning("checkpoint " + std::to_string(job_.generation) +
                   ": its failure cannot be told to the other ranks: " + untold);
}

std::optional<std::uint64_t> GenerationWriter::number_of_folder() const {
  struct stat info {};
  if (::stat(folder().c_str(), &info) != 0) return std::nullopt;
  return info.st_ino;
}

bool GenerationWriter::has_lost_folder() const {
  return job_.rank != 0 && folder_number_ && number_of_folder() != folder_number_;
}

bool GenerationWriter::is_given_up() const {
  bool has_failed = false;
  static_cast<void>(failure_of(  // a manifest that cannot be read says nothing
      [&] { has_failed = job_.rank != 0 && folder_.has_failed(job_.generation, job_.run); }));
  return has_failed;
}

void GenerationWriter::remove_if_given_up() const {
  if (is_given_up()) folder_.remove(folder());
}

void GenerationWriter::compare(std::int64_t rank, const CheckpointRecord& record) const {
  TORCH_CHECK(record.failure.empty(), "rank ", rank, ": ", record.failure);
  TORCH_CHECK(record.run == job_.run && record.generation == job_.generation &&
                  record.step == job_.step && record.world_size == job_.world_size,
              "rank ", rank, " has saved step ", record.step, " of ", record.world_size,
              " ranks, and rank ", job_.rank, " step ", job_.step, " of ", job_.world_size,
              "; all ranks must save after the same steps");
  TORCH_CHECK(record.plan == job_.snapshot.plan, "rank ", rank, " has other tensors than rank ",
              job_.rank,
              " in the parts that are the same on all ranks: other names, dtypes or "
              "shapes (see TrainingState::add_of_rank)");
}

void GenerationWriter::take_records(std::map<std::int64_t, CheckpointRecord>& found) const {
  for (std::int64_t rank = 0; rank < job_.world_size; ++rank) {
    if (found.contains(rank)) continue;
    auto record = read_record(folder() / done_file(rank), folder_.files());
    if (!record) continue;
    compare(rank, *record);
    found.emplace(rank, std::move(*record));
  }
}

CheckpointRecord GenerationWriter::gather() const {
  std::map<std::int64_t, CheckpointRecord> found;
  const auto are_all_there = [&] {
    const bool is_last = is_over_.load();
    take_records(found);
    return is_last || static_cast<std::int64_t>(found.size()) == job_.world_size;
  };
  const bool is_in_time = poll_until(Deadline::after(job_.timeout), kLongestPause, are_all_there);
  std::int64_t missing = 0;
  while (found.contains(missing)) ++missing;
  TORCH_CHECK(missing == job_.world_size, "rank ", missing, " has not written its files ",
              is_in_time ? "when rank 0 ended"
                         : "after " + std::to_string(job_.timeout.count()) +
                               " ms (CheckpointerOptions::timeout)");
  CheckpointRecord all = record();
  for (auto& [rank, one] : found) all.files.merge(one.files);
  return all;
}

CheckpointRecord GenerationWriter::commit() {
  CheckpointRecord all;
  std::string failure = failure_of([&] {
    all = gather();
    for (std::int64_t rank = 0; rank < job_.world_size; ++rank) {
      remove(done_file(rank));  // one that stays does no harm
    }
    folder_.give_place(all);
  });
  if (!failure.empty()) {
    report(failure);
    TORCH_CHECK(false, failure);
  }
  failure = failure_of([&] { folder_.append(all); });
  if (!failure.empty()) {
    // The line may be there or not: the last line of a generation counts.
    folder_.remove(folder_.generation(job_.generation));
    report(failure);
    TORCH_CHECK(false, failure);
  }
  return all;
}

}  // namespace lockstep::training

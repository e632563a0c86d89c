// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/spool.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "native/posix/atomic_file.h"
#include "native/posix/posix_check.h"

namespace lockstep::training {
namespace {

constexpr std::string_view kFirstLine = "lockstep spool 1\n";
constexpr std::size_t kWindow = std::size_t{256} << 10;
// What a record in memory costs beside its text.
constexpr std::size_t kRecordBytes = 64;
constexpr mode_t kOwnerOnly = 0600;

/// One line: the time, a letter for the level (a digit: a line, a letter: a note), the text with
/// escaped newlines.
std::string to_line(const LogRecord& record) {
  std::string line = std::to_string(record.nanoseconds);
  line += ' ';
  line += static_cast<char>((record.is_note ? 'a' : '0') + static_cast<int>(record.level));
  line += ' ';
  for (const char c : record.text) {
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\\') {
      line += "\\\\";
    } else {
      line += c;
    }
  }
  line += '\n';
  return line;
}

/// Nothing: it is no record.
std::optional<LogRecord> to_record(std::string_view line) {
  LogRecord record;
  const char* end = line.data() + line.size();
  const auto [rest, error] = std::from_chars(line.data(), end, record.nanoseconds);
  if (error != std::errc() || end - rest < 3 || rest[0] != ' ' || rest[2] != ' ') return {};
  record.is_note = rest[1] >= 'a';
  const int level = rest[1] - (record.is_note ? 'a' : '0');
  if (level < 0 || level >= static_cast<int>(logging::Level::Off)) return {};
  record.level = static_cast<logging::Level>(level);
  for (const char* c = rest + 3; c != end; ++c) {
    if (*c == '\\' && c + 1 != end) {
      ++c;
      record.text += *c == 'n' ? '\n' : *c;
    } else {
      record.text += *c;
    }
  }
  return record;
}

}  // namespace

std::uint64_t LogRecord::counted() const noexcept {
  std::uint64_t lines = 0;
  if (is_note) std::from_chars(text.data(), text.data() + text.size(), lines);
  return lines;
}

Spool::Spool(const SpoolOptions& options, native::FileSystem& files)
    : options_(options), path_(options.file().string()), files_(files) {
  TORCH_CHECK(options.memory_bytes() > 0, "SpoolOptions: memory_bytes is ", options.memory_bytes(),
              "; it must be 1 or more");
  TORCH_CHECK(options.file_bytes() > 0, "SpoolOptions: file_bytes is ", options.file_bytes(),
              "; it must be 1 or more");
  if (path_.empty()) return;
  try {
    open();
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

void Spool::open() {
  file_ = native::FileDescriptor(files_.open(
      path_, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, kOwnerOnly));
  if (!file_.is_open()) native::throw_errno(path_ + ": cannot be opened");
  struct stat info {};
  if (files_.examine(file_.get(), info) != 0) native::throw_errno(path_ + ": cannot be examined");
  TORCH_CHECK(S_ISREG(info.st_mode), path_, ": is no ordinary file");
  lock();
  end_ = static_cast<std::uint64_t>(info.st_size);
  if (end_ == 0) return;
  std::array<char, kFirstLine.size()> first{};
  const auto got = files_.read(file_.get(), std::as_writable_bytes(std::span(first)), 0);
  if (got < 0) native::throw_errno(path_ + ": cannot be read");
  const std::string_view begin(first.data(), static_cast<std::size_t>(got));
  if (begin != kFirstLine) {
    // A process that was killed at once leaves a part of the line.
    TORCH_CHECK(end_ < kFirstLine.size() && kFirstLine.substr(0, begin.size()) == begin, path_,
                ": is no spool of log lines; give another name, or remove the file");
    empty_file();
    return;
  }
  count_records();
}

void Spool::lock() {
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) native::throw_errno(path_ + ": cannot be locked");
    TORCH_CHECK(false, path_,
                ": another process, or another sink, uses this spool; give each a file of its own");
  }
  ends_here_ = std::make_unique<native::CloseOnFork>(file_.get());
}

void Spool::count_records() {
  // The last mark counts: what it names was sent.
  begin_ = kFirstLine.size();
  std::uint64_t at = begin_;
  std::string text;
  std::uint64_t sent = 0;
  while (at < end_) {
    std::string piece(std::min<std::uint64_t>(kWindow, end_ - at), '\0');
    const auto got = files_.read(file_.get(), std::as_writable_bytes(std::span(piece)), at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) native::throw_errno(path_ + ": cannot be read", got < 0 ? errno : EIO);
    piece.resize(static_cast<std::size_t>(got));
    at += piece.size();
    text += piece;
    std::size_t from = 0;
    for (auto to = text.find('\n'); to != std::string::npos; to = text.find('\n', from)) {
      if (text[from] == '=') std::from_chars(text.data() + from + 1, text.data() + to, sent);
      from = to + 1;
    }
    text.erase(0, from);
  }
  if (!text.empty()) {
    // It could look like a whole one.
    ++torn_;
    end_ -= text.size();
    if (files_.truncate(file_.get(), end_) != 0) native::throw_errno(path_ + ": cannot be cut");
  }
  if (sent > begin_ && sent <= end_) begin_ = sent;
  for (std::uint64_t at_record = begin_; at_record < end_;) {
    const Batch found = read(at_record, 1024);
    // Those that are not counted would be cut away later.
    if (found.has_failed || found.is_cut) native::throw_errno(path_ + ": cannot be read", EIO);
    in_file_ += found.records.size();
    restored_notes_ += static_cast<std::uint64_t>(
        std::count_if(found.records.begin(), found.records.end(),
                      [](const LogRecord& record) { return record.is_note; }));
    at_record = found.end;
  }
  restored_ = in_file_;
  if (in_file_ == 0) empty_file();
}

bool Spool::push(LogRecord&& record) {
  const std::size_t bytes = record.text.size() + kRecordBytes;
  const auto most = static_cast<std::size_t>(options_.memory_bytes());
  if (memory_bytes_ > 0 && memory_bytes_ + bytes > most && (!has_file() || !save())) return false;
  memory_.push_back(std::move(record));
  memory_bytes_ += bytes;
  return true;
}

/// Records of the file from `begin` on.
Spool::Batch Spool::read(std::uint64_t begin, std::size_t most, std::size_t bytes) {
  Batch batch;
  batch.end = begin;
  std::string text;
  std::size_t from = 0;
  std::size_t text_bytes = 0;
  std::uint64_t at = begin;
  while (batch.records.size() < most) {
    const auto to = text.find('\n', from);
    if (to != std::string::npos) {
      const auto line = std::string_view(text).substr(from, to - from);
      const bool is_mark = line.empty() || line.front() == '=';
      auto record = is_mark ? std::nullopt : to_record(line);
      if (record) {
        text_bytes += record->text.size();
        if (text_bytes > bytes && !batch.records.empty()) break;
        batch.records.push_back(std::move(*record));
      }
      batch.end += line.size() + 1;
      from = to + 1;
      continue;
    }
    if (at >= end_) break;
    text.erase(0, std::exchange(from, 0));
    std::string piece(std::min<std::uint64_t>(kWindow, end_ - at), '\0');
    const auto got = files_.read(file_.get(), std::as_writable_bytes(std::span(piece)), at);
    if (got < 0 && errno == EINTR) continue;
    batch.has_failed = got < 0;
    batch.is_cut = got == 0;
    if (got <= 0) break;  // tried again with the next batch
    at += static_cast<std::uint64_t>(got);
    text.append(piece, 0, static_cast<std::size_t>(got));
  }
  return batch;
}

std::vector<LogRecord> Spool::front(std::size_t most, std::size_t bytes) {
  if (in_file_ > 0) {
    Batch batch = read(begin_, most, bytes);
    if (!batch.records.empty() || !batch.is_cut) return std::move(batch.records);
    cut_ += std::exchange(in_file_, 0);
    empty_file();
  }
  std::vector<LogRecord> records;
  std::size_t text_bytes = 0;
  for (const auto& record : memory_) {
    text_bytes += record.text.size();
    if (records.size() == most || (text_bytes > bytes && !records.empty())) break;
    records.push_back(record);
  }
  return records;
}

std::size_t Spool::pop(std::size_t records) {
  // What was in memory when it was taken may be in the file now, or in parts.
  const auto from_file = static_cast<std::size_t>(std::min<std::uint64_t>(records, in_file_));
  std::size_t taken = 0;
  if (from_file > 0) {
    const Batch batch = read(begin_, from_file);
    taken = batch.records.size();
    in_file_ -= taken;
    begin_ = batch.end;
    if (in_file_ == 0) {
      empty_file();
    } else {
      append("=" + std::to_string(begin_) + "\n");  // where it fails, lines are sent twice
    }
    if (taken < from_file) return taken;
  }
  for (; taken < records && !memory_.empty(); ++taken) {
    memory_bytes_ -= memory_.front().text.size() + kRecordBytes;
    memory_.pop_front();
  }
  return taken;
}

bool Spool::save() {
  while (!memory_.empty()) {
    std::string text = end_ == 0 ? std::string(kFirstLine) : std::string();
    std::size_t count = 0;
    std::size_t bytes = 0;
    for (const auto& record : memory_) {
      std::string line = to_line(record);
      if (end_ + text.size() + line.size() > static_cast<std::uint64_t>(options_.file_bytes())) {
        break;
      }
      text += line;
      bytes += record.text.size() + kRecordBytes;
      if (++count == 1024) break;
    }
    if (count == 0) {
      failure_ = path_ + " is full";
      return false;
    }
    const bool is_first = end_ == 0;
    if (!append(text)) return false;
    if (is_first) begin_ = kFirstLine.size();
    in_file_ += count;
    memory_bytes_ -= bytes;
    memory_.erase(memory_.begin(), memory_.begin() + static_cast<std::ptrdiff_t>(count));
  }
  return true;
}

Spool::Forgotten Spool::forget_memory() {
  Forgotten forgotten;
  for (const auto& record : memory_) {
    forgotten.lines += record.is_note ? 0U : 1U;
    forgotten.counted += record.counted();
  }
  memory_.clear();
  memory_bytes_ = 0;
  return forgotten;
}

/// All of it or nothing. False: `failure_` says why.
bool Spool::append(const std::string& text) {
  try {
    native::write_all(files_, file_, end_, std::as_bytes(std::span(text)), path_);
  } catch (const std::system_error& error) {
    failure_ = error.what();
    // What lies behind end_ is written over by the next call, whether or not this works.
    files_.truncate(file_.get(), end_);
    return false;
  }
  end_ += text.size();
  return true;
}

void Spool::empty_file() {
  if (files_.truncate(file_.get(), 0) == 0) {
    begin_ = 0;
    end_ = 0;
    return;
  }
  // Where this fails too, the next run sends lines a second time.
  append("=" + std::to_string(end_) + "\n");
  begin_ = end_;
}

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/syslog_transport.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "native/posix/host_name.h"
#include "training/background/log_text.h"

namespace lockstep::training {
namespace {

constexpr std::size_t kHostBytes = 255;  // as the format has it

int severity_of(logging::Level level) {
  switch (level) {
    case logging::Level::Debug:
      return 7;
    case logging::Level::Info:
      return 6;
    case logging::Level::Warning:
      return 4;
    default:
      return 3;
  }
}

/// Names have no blanks and nothing outside of ASCII.
std::string printable(std::string name, std::size_t most) {
  name.resize(std::min(name.size(), most));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c < 33 || c > 126; }, '_');
  return name.empty() ? "-" : name;
}

}  // namespace

std::optional<ServerName> parse_server(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return {};
  ServerName name{text.substr(0, colon), text.substr(colon + 1)};
  if (name.host.size() > 2 && name.host.front() == '[' && name.host.back() == ']') {
    name.host = name.host.substr(1, name.host.size() - 2);
  } else if (name.host.find(':') != std::string::npos) {
    return {};  // an address of IPv6 needs brackets
  }
  int port = 0;
  const char* end = name.port.data() + name.port.size();
  const auto [rest, error] = std::from_chars(name.port.data(), end, port);
  if (name.host.empty() || error != std::errc() || rest != end || port < 1 || port > 65535) {
    return {};
  }
  return name;
}

std::string syslog_origin(const SyslogOptions& options) {
  std::string text = printable(native::host_name(), kHostBytes);
  text += ' ';
  text += options.application();
  text += ' ';
  text += std::to_string(::getpid());
  text += " - - ";  // no name of the message, no structured data
  return text;
}

std::string syslog_message(const LogRecord& record, const SyslogOptions& options,
                           const std::string& origin) {
  std::string text = "<";
  text += std::to_string(options.facility() * 8 + severity_of(record.level));
  text += ">1 ";
  append_time(text, record.nanoseconds);
  text += ' ';
  text += origin;
  append_escaped(text, record.text);
  const auto most = static_cast<std::size_t>(options.message_bytes());
  if (text.size() <= most) return text;
  std::string cut = " [cut; it had ";
  cut += std::to_string(text.size());
  cut += " bytes]";
  std::size_t kept = most - cut.size();
  // Not within a character.
  while (kept > 0 && (static_cast<unsigned char>(text[kept]) & 0xC0) == 0x80) --kept;
  text.resize(kept);
  return text + cut;
}

SyslogTransport5424::SyslogTransport5424(const SyslogOptions& options)
    : options_(options), origin_(syslog_origin(options)) {
  if (options.transport() != SyslogTransport::Local) server_ = *parse_server(options.server());
}

void SyslogTransport5424::begin(const std::vector<LogRecord>& records) {
  messages_.clear();
  stream_.clear();
  sent_ = 0;
  refused_ = 0;
  stream_sent_ = 0;
  stage_since_ = Outlet::TimePoint::max();
  for (const auto& record : records) {
    std::string message = syslog_message(record, options_, origin_);
    if (options_.transport() == SyslogTransport::Tcp) {
      stream_ += std::to_string(message.size());
      stream_ += ' ';
      stream_ += message;
    } else {
      messages_.push_back(std::move(message));
    }
  }
}

LogTransport::State SyslogTransport5424::poll(Outlet::TimePoint now) {
  if (stage_since_ == Outlet::TimePoint::max()) stage_since_ = now;
  if (!is_connected_) {
    const State state = connect(now);
    if (state != State::Sent) return state;
    is_connected_ = true;
    stage_since_ = now;
  }
  return send(now);
}

/// `Sent`: the connection stands.
LogTransport::State SyslogTransport5424::connect(Outlet::TimePoint now) {
  if (!socket_ && options_.transport() == SyslogTransport::Local) {
    socket_ = std::make_unique<Socket>(Socket::to_path(options_.server()));
  }
  if (!socket_ && addresses_.empty()) {
    if (!lookup_) lookup_ = std::make_unique<native::NameLookup>(server_.host, server_.port);
    const auto answer = lookup_->poll();
    if (!answer) return is_late(now) ? fail("its name is not found in time") : State::Busy;
    lookup_.reset();
    if (answer->addresses.empty()) return fail(answer->failure);
    addresses_.assign(answer->addresses.begin(), answer->addresses.end());
  }
  if (!socket_) {
    const auto address = addresses_.front();
    addresses_.pop_front();
    const bool is_tcp = options_.transport() == SyslogTransport::Tcp;
    socket_ =
        std::make_unique<Socket>(is_tcp ? Socket::over_tcp(address) : Socket::over_udp(address));
    stage_since_ = now;
  }
  const auto state = socket_->state();
  if (state == Socket::State::Ready) return State::Sent;
  if (state == Socket::State::Busy && !is_late(now)) return State::Busy;
  std::string reason = state == Socket::State::Busy ? "no connection in time" : socket_->failure();
  socket_.reset();
  if (addresses_.empty()) return fail(std::move(reason));
  return State::Busy;  // the next address
}

LogTransport::State SyslogTransport5424::send(Outlet::TimePoint now) {
  auto state = Socket::State::Ready;
  if (options_.transport() == SyslogTransport::Tcp) {
    // A connection that the server has closed meanwhile.
    if (stream_sent_ == 0) state = socket_->is_received();
    if (state != Socket::State::Failed && stream_sent_ < stream_.size()) {
      std::string_view rest = std::string_view(stream_).substr(stream_sent_);
      state = socket_->send_stream(rest);
      const auto sent = stream_.size() - rest.size();
      if (sent > stream_sent_) stage_since_ = now;
      stream_sent_ = sent;
    }
    if (state == Socket::State::Ready) state = socket_->is_received();
  } else {
    while (sent_ < messages_.size()) {
      state = socket_->send_message(messages_[sent_]);
      if (state == Socket::State::TooLong) {
        ++refused_;
        failure_ = "a message of " + std::to_string(messages_[sent_].size()) +
                   " bytes is too long for its socket; message_bytes can be smaller";
        state = Socket::State::Ready;
      }
      if (state != Socket::State::Ready) break;
      ++sent_;
      stage_since_ = now;
    }
  }
  if (state == Socket::State::Ready) {
    stage_since_ = Outlet::TimePoint::max();
    return State::Sent;
  }
  if (state == Socket::State::Failed) return fail(socket_->failure());
  return is_late(now) ? fail("it takes nothing any more") : State::Busy;
}

LogTransport::State SyslogTransport5424::fail(std::string reason) {
  failure_ = std::move(reason);
  // A datagram that is refused says that another address of the server is to be tried.
  auto others = std::move(addresses_);
  cancel();
  if (options_.transport() == SyslogTransport::Udp) addresses_ = std::move(others);
  return State::Failed;
}

void SyslogTransport5424::cancel() {
  socket_.reset();
  lookup_.reset();
  addresses_.clear();
  is_connected_ = false;
}

bool SyslogTransport5424::is_moving(Outlet::TimePoint now) const {
  return is_connected_ && now - stage_since_ < std::chrono::milliseconds(100);
}

bool SyslogTransport5424::is_late(Outlet::TimePoint now) const {
  return now - stage_since_ > options_.timeout();
}

}  // namespace lockstep::training

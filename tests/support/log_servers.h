// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace lockstep::testing {

/// A TCP server of the loop-back interface, which has one thread and serves one connection at a
/// time.
class TcpServer {
 public:
  /// What is done with a connection, until it returns. `receive` gives what comes next; "": the
  /// connection, or the server, has ended.
  class Connection {
   public:
    Connection(int socket, const std::atomic<bool>& is_over) : socket_(socket), is_over_(is_over) {}

    std::string receive() {
      while (!is_over_) {
        pollfd entry{.fd = socket_, .events = POLLIN, .revents = 0};
        if (::poll(&entry, 1, 20) <= 0) continue;
        std::string bytes(65536, '\0');
        const auto got = ::recv(socket_, bytes.data(), bytes.size(), 0);
        if (got <= 0) return "";
        bytes.resize(static_cast<std::size_t>(got));
        return bytes;
      }
      return "";
    }
    void send(const std::string& text) { ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL); }
    /// The other side gets an error at once.
    void reset() {
      const linger none{1, 0};
      ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    }
    [[nodiscard]] bool is_over() const { return is_over_; }

   private:
    int socket_;
    const std::atomic<bool>& is_over_;
  };
  using Handler = std::function<void(Connection&)>;

  /// `port`: 0: one that is free.
  explicit TcpServer(Handler handler, std::uint16_t port = 0) : handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_, 16) != 0) {
      throw std::runtime_error("this test's server cannot listen");
    }
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~TcpServer() {
    is_over_ = true;
    thread_.join();
    ::close(listener_);
  }
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] std::string name() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  void serve() {
    while (!is_over_) {
      pollfd entry{.fd = listener_, .events = POLLIN, .revents = 0};
      if (::poll(&entry, 1, 20) <= 0) continue;
      const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket < 0) continue;
      Connection connection(socket, is_over_);
      handler_(connection);
      ::close(socket);
    }
  }

  Handler handler_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> is_over_{false};
  std::thread thread_;
};

/// Values that a server's thread adds and the test reads.
template <typename T>
class Collected {
 public:
  void add(T value) {
    const std::lock_guard lock(mutex_);
    values_.push_back(std::move(value));
  }
  [[nodiscard]] std::vector<T> all() const {
    const std::lock_guard lock(mutex_);
    return values_;
  }
  [[nodiscard]] std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return values_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<T> values_;
};

/// Reads messages with their lengths in front of them (RFC 6587), until the connection ends.
inline void read_counted(TcpServer::Connection& connection, Collected<std::string>& messages) {
  std::string bytes;
  for (std::string more = connection.receive(); !more.empty(); more = connection.receive()) {
    bytes += more;
    while (true) {
      const auto blank = bytes.find(' ');
      if (blank == std::string::npos) break;
      const auto length = static_cast<std::size_t>(std::stoul(bytes.substr(0, blank)));
      if (bytes.size() < blank + 1 + length) break;
      messages.add(bytes.substr(blank + 1, length));
      bytes.erase(0, blank + 1 + length);
    }
  }
}

/// Datagrams, by UDP or by a path.
class DatagramServer {
 public:
  DatagramServer() : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ::bind(socket_, reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    start();
  }
  explicit DatagramServer(const std::string& path)
      : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(&address.sun_path[0], sizeof(address.sun_path) - 1);
    if (::bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      throw std::runtime_error("this test's server has no socket");
    }
    start();
  }
  ~DatagramServer() {
    is_over_ = true;
    thread_.join();
    ::close(socket_);
  }
  DatagramServer(const DatagramServer&) = delete;
  DatagramServer& operator=(const DatagramServer&) = delete;

  [[nodiscard]] std::string name() const { return "127.0.0.1:" + std::to_string(port_); }
  Collected<std::string> messages;

 private:
  void start() {
    thread_ = std::thread([this] {
      while (!is_over_) {
        pollfd entry{.fd = socket_, .events = POLLIN, .revents = 0};
        if (::poll(&entry, 1, 20) <= 0) continue;
        std::string bytes(65536, '\0');
        const auto got = ::recv(socket_, bytes.data(), bytes.size(), 0);
        if (got < 0) continue;
        bytes.resize(static_cast<std::size_t>(got));
        messages.add(std::move(bytes));
      }
    });
  }

  int socket_;
  std::uint16_t port_ = 0;
  std::atomic<bool> is_over_{false};
  std::thread thread_;
};

struct HttpRequest {
  std::string first_line;
  std::string headers;  ///< in small letters
  std::string body;
};

/// A server that takes requests and gives the answers that it was told, the last one again and
/// again.
class HttpServer {
 public:
  struct Answer {
    int status = 200;
    std::string headers;  ///< each with its line end
    std::string body = "{}";
    bool is_cut = false;     ///< the connection ends in the middle of the answer
    bool is_silent = false;  ///< nothing comes at all
  };

  explicit HttpServer(std::deque<Answer> answers, std::uint16_t port = 0)
      : answers_(std::move(answers)),
        server_([this](TcpServer::Connection& connection) { serve(connection); }, port) {}

  [[nodiscard]] std::string url() const { return "http://" + server_.name(); }
  [[nodiscard]] std::uint16_t port() const { return server_.port(); }
  Collected<HttpRequest> requests;

 private:
  void serve(TcpServer::Connection& connection) {
    std::string bytes;
    for (std::string more = connection.receive(); !more.empty(); more = connection.receive()) {
      bytes += more;
      const auto end = bytes.find("\r\n\r\n");
      if (end == std::string::npos) continue;
      HttpRequest request;
      request.first_line = bytes.substr(0, bytes.find("\r\n"));
      request.headers = bytes.substr(0, end + 2);
      std::transform(request.headers.begin(), request.headers.end(), request.headers.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      const auto at = request.headers.find("content-length: ");
      const auto length =
          at == std::string::npos
              ? std::size_t{0}
              : static_cast<std::size_t>(std::stoul(request.headers.substr(at + 16)));
      if (bytes.size() < end + 4 + length) continue;
      request.body = bytes.substr(end + 4, length);
      bytes.erase(0, end + 4 + length);
      Answer answer = answers_.front();
      if (answers_.size() > 1) answers_.pop_front();
      requests.add(std::move(request));
      if (answer.is_silent) continue;
      std::string text = "HTTP/1.1 " + std::to_string(answer.status) + " Text\r\n" +
                         answer.headers + "Content-Length: " + std::to_string(answer.body.size()) +
                         "\r\n\r\n" + answer.body;
      if (answer.is_cut) {
        connection.send(text.substr(0, text.size() - 1));
        return;
      }
      connection.send(text);
    }
  }

  std::deque<Answer> answers_;  // the thread's
  TcpServer server_;
};

}  // namespace lockstep::testing

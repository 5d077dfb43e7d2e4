CONFLUENT = ("confluent-kafka==2.16.1", "pydantic==2.14.3", "redis==8.1.0", "msgspec==0.22.0")
